from __future__ import annotations

from pathlib import Path

import pytest

from lifl.platform.local import base_environment
from lifl.platform.paths import Paths
from lifl.platform.services import UpConfig, services

CONFIG = UpConfig(3, "socket", (9000, 9001, 9002), 9100, auth=False)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.create(CONFIG.node_names)
    return found


def test_there_is_an_agent_and_a_gateway_a_node_and_one_of_the_others(paths: Paths) -> None:
    names = [s.name for s in services(CONFIG, paths)]
    assert names == [
        *(f"agent-{i}" for i in range(3)),
        "coordinator",
        *(f"gateway-{i}" for i in range(3)),
        "controller",
    ]


def test_each_is_told_where_it_is_and_whom_to_ask(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIFL_NODE_CAPACITY", "7")
    monkeypatch.setenv("LIFL_DATAPLANE", "ebpf")
    by_name = {s.name: s for s in services(CONFIG, paths)}
    gateway = by_name["gateway-2"]
    assert gateway.ready_url == "http://127.0.0.1:9002/readyz"
    assert gateway.env["PORT"] == "9002"
    assert gateway.env["LIFL_NODE"] == "node-2"
    assert gateway.env["LIFL_AGENT_SOCKET"] == str(paths.run / "node-2" / "agent.sock")
    assert gateway.env["LIFL_COORDINATOR_URL"] == "http://127.0.0.1:9100"
    for service in by_name.values():
        assert service.env["LIFL_AUTH"] == "off"
        assert service.env["LIFL_DATAPLANE"] == "socket", "what was asked for beats the environment"
        assert service.env["LIFL_NODE_CAPACITY"] == "7", "settings of the caller are passed on"
        assert service.env["LIFL_PLATFORM_SECRET"] == paths.secret()


def test_the_common_environment_holds_no_settings_or_secrets() -> None:
    kept = base_environment({"PATH": "/bin", "LIFL_PLATFORM_SECRET": "x", "AWS_SECRET": "y"})
    assert kept["PATH"] == "/bin"
    assert not {"LIFL_PLATFORM_SECRET", "AWS_SECRET"} & kept.keys()
