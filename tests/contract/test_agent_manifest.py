"""The agents' DaemonSet has the least rights that work, and settings that the agent reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.agent_pods import LABELS, PORT
from ebpf.agent.settings import AgentSettings
from lifl.naming import AGENT_SOCKET

Object = dict[str, Any]
Objects = dict[str, list[Object]]


@pytest.fixture(scope="module")
def daemonset(objects: Objects) -> Object:
    (found,) = (o for o in objects["deploy/base"] if o["kind"] == "DaemonSet")
    return found


@pytest.fixture
def agent(daemonset: Object) -> Object:
    (found,) = daemonset["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.fixture
def settings(agent: Object) -> AgentSettings:
    unknown = {"LIFL_NODE": "node-0", "LIFL_PLATFORM_SECRET": "00" * 32}
    env = {e["name"]: e.get("value") or unknown[e["name"]] for e in agent["env"]}
    return AgentSettings.from_env(env)


def test_its_rights_are_the_least_that_work(daemonset: Object, agent: Object) -> None:
    spec = daemonset["spec"]["template"]["spec"]
    assert agent["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["BPF", "NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["hostPID"] is True
    assert not {"hostIPC", "hostNetwork", "securityContext"} & set(spec)
    assert spec["automountServiceAccountToken"] is False


def test_it_writes_only_where_it_must_and_sees_no_more_of_the_node(
    daemonset: Object, agent: Object
) -> None:
    volumes = {v["name"]: v for v in daemonset["spec"]["template"]["spec"]["volumes"]}
    paths = {name: v["hostPath"]["path"] for name, v in volumes.items() if "hostPath" in v}
    mounts = {m["name"]: m for m in agent["volumeMounts"]}
    assert set(volumes) == set(mounts)
    assert set(paths.values()) == {"/run/lifl", "/run/lifl-agent", "/sys/fs/bpf"}
    assert all(mounts[name]["mountPath"] == path for name, path in paths.items())
    writable = {n for n, m in mounts.items() if not m.get("readOnly")}
    assert writable == set(paths) | {"tmp"}


def test_it_runs_on_every_node(daemonset: Object) -> None:
    spec = daemonset["spec"]["template"]["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    labels = daemonset["spec"]["template"]["metadata"]["labels"]
    assert daemonset["spec"]["selector"]["matchLabels"] == labels
    name, value = LABELS.split("=")
    assert labels[name] == value, "how the controller finds agents"


def test_functions_see_the_registration_socket_and_not_the_admin_one(
    settings: AgentSettings,
) -> None:
    """The webhook mounts /run/lifl into functions."""
    assert settings.agent_socket == Path("/run/lifl") / AGENT_SOCKET
    assert settings.admin_socket.parent != settings.agent_socket.parent


def test_it_keeps_its_pins_where_they_outlive_it(settings: AgentSettings) -> None:
    assert settings.pin_dir.parent == Path("/sys/fs/bpf")
    private = Path("/run/lifl-agent")
    assert settings.state_file.is_relative_to(private)
    assert settings.admin_socket.is_relative_to(private)


def test_functions_are_known_by_their_pods(settings: AgentSettings) -> None:
    assert settings.identity == "pod"
    assert settings.platform_secret == bytes(32)


def test_probes_and_ports_are_where_it_serves(agent: Object, settings: AgentSettings) -> None:
    ports = {p["name"]: p["containerPort"] for p in agent["ports"]}
    assert settings.admin_listen == ("0.0.0.0", ports["admin"])
    assert ports == {"metrics": settings.metrics_port, "admin": PORT}
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert agent[probe]["httpGet"] == {"path": path, "port": "metrics"}


def test_its_certificate_may_come_later(
    daemonset: Object, agent: Object, settings: AgentSettings
) -> None:
    volumes = {v["name"]: v for v in daemonset["spec"]["template"]["spec"]["volumes"]}
    (mount,) = (m for m in agent["volumeMounts"] if m["mountPath"] == str(settings.tls_dir))
    secret = volumes[mount["name"]]["secret"]
    assert secret == {"secretName": "lifl-agent-tls", "optional": True, "defaultMode": 0o400}


def test_every_variable_is_one_it_reads(agent: Object, repo: Path) -> None:
    text = "".join(p.read_text() for p in (repo / "ebpf").rglob("*.py"))
    for variable in agent["env"]:
        assert f'"{variable["name"]}"' in text, variable["name"]
