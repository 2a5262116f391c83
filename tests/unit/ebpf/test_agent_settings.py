"""What only the agent of a cluster's node is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpf.agent.settings import AgentSettings
from lifl.errors import ConfigError

KEY = "ab" * 32


def test_a_local_agent_knows_users_and_no_network() -> None:
    settings = AgentSettings.from_env({"LIFL_PLATFORM_SECRET": KEY})
    assert (settings.identity, settings.platform_secret) == ("uid", b"")
    assert settings.admin_listen is None


def test_pods_need_the_platforms_secret(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    pod = {"LIFL_IDENTITY": "pod"}
    for env in ({"LIFL_PLATFORM_SECRET": KEY}, {"LIFL_PLATFORM_SECRET_FILE": str(file)}):
        assert AgentSettings.from_env(pod | env).platform_secret == bytes.fromhex(KEY)
    for env in ({}, {"LIFL_PLATFORM_SECRET": KEY[:-2]}):
        with pytest.raises(ConfigError, match="LIFL_PLATFORM_SECRET_FILE") as caught:
            AgentSettings.from_env(pod | env)
        assert KEY[:-2] not in str(caught.value)
    with pytest.raises(ConfigError, match="use uid or pod"):
        AgentSettings.from_env({"LIFL_IDENTITY": "user"})


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("0.0.0.0:9465", ("0.0.0.0", 9465)),
        (":9465", ("", 9465)),
        ("[::]:9465", ("::", 9465)),
        ("agent.example.com:1", ("agent.example.com", 1)),
    ],
)
def test_where_the_controller_reaches_it(raw: str, address: tuple[str, int]) -> None:
    env = {"LIFL_ADMIN_LISTEN": raw, "LIFL_TLS_DIR": "/etc/lifl/tls"}
    settings = AgentSettings.from_env(env)
    assert (settings.admin_listen, settings.tls_dir) == (address, Path("/etc/lifl/tls"))


@pytest.mark.parametrize(
    "raw", ["9465", "host:", "host:x", "host:0", "host:65536", "::1:9465", "a:²"]
)
def test_other_addresses_are_refused(raw: str) -> None:
    with pytest.raises(ConfigError, match="LIFL_ADMIN_LISTEN"):
        AgentSettings.from_env({"LIFL_ADMIN_LISTEN": raw, "LIFL_TLS_DIR": "/x"})


def test_certificates_are_needed_to_be_reached() -> None:
    with pytest.raises(ConfigError, match="LIFL_TLS_DIR is needed"):
        AgentSettings.from_env({"LIFL_ADMIN_LISTEN": ":9465"})


def test_a_nodes_name_may_have_dots() -> None:
    env = {"LIFL_NODE": "ip-10-0-0-1.ec2.internal", "LIFL_RUN_DIR": "/r"}
    settings = AgentSettings.from_env(env)
    assert settings.state_file == Path("/r/ip-10-0-0-1.ec2.internal/agent.json")
