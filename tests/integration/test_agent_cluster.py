"""The agent as it runs on a cluster's node: functions are known by their pod, few capabilities,
administered over TLS, probed over HTTP. Pods are stood for by cgroups with their names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifl.auth import ANY_JOB, mint_registration_token
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.registration import Registration
from lifl.dataplane.tls import AGENT_NAME, CONTROLLER_NAME, controller_context
from lifl.errors import RegistrationError, Unavailable
from lifl.store import PoolGeometry

from .agent_kit import (
    GEOMETRY,
    JOB,
    LONE,
    ROOT,
    Agent,
    Function,
    named,
    put,
    running,
    starting,
    take_one,
    until,
)

SECRET = b"p" * 32
DATAPLANES = ["socket", pytest.param("ebpf", marks=pytest.mark.ebpf)]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make cgroups")
needs_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
CAPABLE = ("setpriv", "--bounding-set", "-all,+net_admin,+bpf", "--inh-caps", "-all")
"""Be uid 0 with the capabilities of ebpf/daemonset.yaml."""


def cgroup_root() -> Path | None:
    """Return a mounted cgroup version 2 hierarchy."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "ro" not in options.split(","):
            return Path(where)
    return None


class Pods:
    """Makes the cgroups that a kubelet would make, below one of this test."""

    def __init__(self, root: Path) -> None:
        self.top = root / f"lifl-test-{os.getpid()}"
        self._made: list[Path] = []

    def pod(self) -> tuple[str, Path]:
        """Return a new pod's UID and a container's cgroup in it."""
        uid = str(uuid.uuid4())
        return uid, self.cgroup(f"kubepods/burstable/pod{uid}/{'c0' * 32}")

    def cgroup(self, path: str) -> Path:
        made = self.top
        for part in ("", *path.split("/")):
            made /= part
            if not made.exists():
                made.mkdir()
                self._made.append(made)
        return made

    def remove(self) -> None:
        for path in reversed(self._made):
            until(lambda p=path: self._removed(p), 10.0)

    @staticmethod
    def _removed(path: Path) -> bool:
        try:
            path.rmdir()
        except OSError:  # a process has not quite ended
            return False
        return True


@pytest.fixture
def pods() -> Iterator[Pods]:
    root = cgroup_root()
    if root is None or os.geteuid() != 0:
        pytest.skip("cgroups need root and a mounted cgroup2")
    made = Pods(root)
    yield made
    made.remove()


def token(uid: str, kind: str = "aggregator", name: str = "agg-1", job: str = JOB) -> str:
    return mint_registration_token(SECRET, uid, kind=kind, name=name, job=job)


POD_MODE = {"LIFL_IDENTITY": "pod", "LIFL_PLATFORM_SECRET": SECRET.hex()}


def function(agent: Agent, cgroup: Path | None, shown: str = "", **options: Any) -> Function:
    """Start one as another user than the job's: users do not matter here."""
    env = {"LIFL_REGISTRATION": shown} | ({"TEST_CGROUP": str(cgroup)} if cgroup else {})
    name = options.pop("name", "agg-1")
    return Function(agent, name, user=65534, env=env, **options)


def refused(agent: Agent, *args: Any, **options: Any) -> str:
    made = function(agent, *args, **options)
    made.close()
    assert made.hello["error"] == "RegistrationError"
    return str(made.hello["detail"])


@pytest.mark.parametrize("dataplane", DATAPLANES)
def test_a_function_in_its_pod_registers_and_nobody_else(dataplane: str, pods: Pods) -> None:
    (mine, here), (other, there) = pods.pod(), pods.pod()
    with running(dataplane, **POD_MODE) as agent:
        assert "shows no registration token" in refused(agent, here)
        assert "is in no pod" in refused(agent, None, token(mine))
        assert "made for another pod" in refused(agent, there, token(mine))
        assert "may be aggregator agg-1" in refused(agent, here, token(mine), name="agg-2")
        assert "may be aggregator agg-1" in refused(agent, here, token(mine), kind="gateway")
        assert "is refused" in refused(agent, here, token(mine)[:-3])
        any_job = token(mine, job=ANY_JOB)
        assert "of any job" in refused(agent, here, any_job)
        assert agent.events("refusals") == 7

        agent.admin.apply(LONE)
        leaf = function(agent, here, token(mine))
        leaf.ask("ready")
        gateway = function(
            agent,
            there,
            token(other, "gateway", "gateway", ANY_JOB),
            name="gateway",
            kind="gateway",
        )
        assert gateway.hello["lane"] == 0
        assert named(agent, "agg-1")["pid"] == leaf.hello["pid"]
        assert "registered already" in refused(agent, here, token(mine)), "its seat is taken"

        agent.stop(signal.SIGKILL)
        agent.start()
        for made in (leaf, gateway):
            assert made.ask("resume") == {}
        agent.stop(signal.SIGHUP)
        agent.start(LIFL_RESTART_GRACE="0.2")
        until(lambda: not agent.admin.endpoints(), 10.0)
        assert leaf.ask("resume")["error"] == "RegistrationError"
        assert "endpoint" in leaf.ask("reopen"), "the token is good for as long as the pod"
        for made in (leaf, gateway):
            made.kill()


def test_pods_are_known_from_a_cgroup_namespace_of_ones_own(pods: Pods) -> None:
    """As an agent's container on cgroup version 2: it sees ``/../../pod...``."""
    uid, here = pods.pod()
    _, agents = pods.pod()
    enter = f'echo $$ > {agents}/cgroup.procs && exec unshare --cgroup "$@"'
    with running("socket", through=("sh", "-c", enter, "sh"), **POD_MODE) as agent:
        proc = Path(f"/proc/{agent.admin.info()['pid']}")
        assert agents.parent.name in (proc / "cgroup").read_text()
        assert (proc / "ns/cgroup").readlink() != Path("/proc/self/ns/cgroup").readlink()
        made = function(agent, here, token(uid))
        assert "error" not in made.hello
        made.kill()


def test_without_a_secret_it_does_not_start(tmp_path: Path) -> None:
    env = os.environ | {
        "LIFL_IDENTITY": "pod",
        "LIFL_RUN_DIR": str(tmp_path),
        "LIFL_DATAPLANE": "socket",
    }
    done = subprocess.run(
        [sys.executable, "-m", "ebpf.agent"], env=env, cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"LIFL_IDENTITY=pod needs the platform's secret" in done.stderr


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """Mount one, as the node does for its pods."""
    where = tmp_path / "bpffs"
    where.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@as_root
@needs_setpriv
@pytest.mark.parametrize("dataplane", DATAPLANES)
def test_two_capabilities_are_enough(dataplane: str, bpffs: Path) -> None:
    """Functions of another user come, die and come back, without CAP_KILL, CAP_SYS_PTRACE ..."""
    pins = bpffs / "lifl"
    with running(dataplane, through=CAPABLE, LIFL_PIN_DIR=str(pins)) as agent:
        status = Path(f"/proc/{agent.admin.info()['pid']}/status").read_text()
        effective = next(r for r in status.splitlines() if r.startswith("CapEff:")).split()[1]
        assert int(effective, 16) == 1 << 12 | 1 << 39  # CAP_NET_ADMIN, CAP_BPF
        agent.admin.remove_domain(JOB)
        agent.admin.create_domain(JOB, 65534, GEOMETRY, 2)
        agent.admin.apply(LONE)
        gateway = Registration.open(agent.socket, kind="gateway", name="gateway", domain=JOB)
        gateway.ready()
        with starting(agent) as functions:
            one = functions("agg-1", user=65534)
            put(gateway, 1)
            take_one(one)
            agent.stop(signal.SIGKILL)
            assert pins.is_dir() is (dataplane == "ebpf")
            agent.start(through=CAPABLE)
            gateway.resume(timeout=5.0)
            assert one.ask("resume") == {}
            put(gateway, 2)
            one.kill()
            two = functions("agg-1", user=65534)
            take_one(two)
            take_one(two)
        gateway.close()
    assert not pins.exists()


@as_root
@needs_setpriv
def test_a_pool_whose_table_is_held_by_one_it_may_not_kill_is_given_up() -> None:
    with running("socket", through=CAPABLE) as agent:
        agent.admin.remove_domain(JOB)
        agent.admin.create_domain(JOB, 65534, GEOMETRY)
        gateway = Registration.open(agent.socket, kind="gateway", name="gateway", domain=JOB)
        with starting(agent) as functions:
            one = functions("agg-1", user=65534)
            one.ask("hold_table")
            os.kill(one.process.pid, signal.SIGSTOP)
            until(gateway.lost, 10.0)
            assert agent.events("damages") == 1
            with pytest.raises(RegistrationError):
                gateway.resume()
            gateway.close()
            fresh = Registration.open(agent.socket, kind="gateway", name="gateway", domain=JOB)
            assert fresh.pool.usage().free == 16
            fresh.close()


# -- over the network ---------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


@pytest.fixture
def tls(new_authority: Callable[[], Any]) -> Iterator[Callable[..., Path]]:
    """Return how to write certificates for DNS names."""
    with tempfile.TemporaryDirectory() as top:
        authority = new_authority()
        yield lambda directory, *names: authority.write(Path(top) / directory, *names)


def test_the_controller_administers_over_tls(tls: Callable[..., Path]) -> None:
    port = free_port()
    directory = tls("agent", AGENT_NAME)
    env = {"LIFL_ADMIN_LISTEN": f"127.0.0.1:{port}", "LIFL_TLS_DIR": str(directory)}
    with running("socket", **env) as agent:
        admin = AgentAdmin.remote("127.0.0.1", port, controller_context(tls("c", CONTROLLER_NAME)))
        assert admin.info() == agent.admin.info()
        assert admin.create_domain("faces", os.getuid(), PoolGeometry(4, 4096, 4096)) == 2
        assert [d["name"] for d in agent.admin.domains()] == [JOB, "faces"]
        assert admin.apply(LONE) == ["agg-1"]
        assert admin.pools()[JOB].free == 16
        tls("agent", AGENT_NAME)  # replaced: it is used from the next connection on
        assert admin.info()["node"] == "node-0"
        agent.stop(signal.SIGHUP)
        with pytest.raises(Unavailable):
            admin.info()
        agent.start()
        assert admin.info()["epoch"] == 2
        admin.remove_domain("faces")
        other = AgentAdmin.remote("127.0.0.1", port, controller_context(tls("a", AGENT_NAME)))
        with contextlib.suppress(Unavailable), pytest.raises(Exception, match="lifl-controller"):
            other.remove_domain(JOB)
        assert [d["name"] for d in agent.admin.domains()] == [JOB]
        for made in (admin, other):
            made.close()


def test_a_port_in_use_ends_the_start_and_nothing_else(tls: Callable[..., Path]) -> None:
    """What the last agent left is the next one's, which may get the port."""
    with running("socket") as agent, socket.create_server(("127.0.0.1", 0)) as taken:
        gateway = Registration.open(agent.socket, kind="gateway", name="gateway", domain=JOB)
        agent.stop(signal.SIGKILL)
        port = taken.getsockname()[1]
        for env in (
            {"LIFL_ADMIN_LISTEN": f"127.0.0.1:{port}", "LIFL_TLS_DIR": str(tls("x", AGENT_NAME))},
            {"LIFL_METRICS_PORT": str(port)},
        ):
            done = subprocess.run(
                [sys.executable, "-m", "ebpf.agent"],
                env=agent.env | env,
                cwd=ROOT,
                capture_output=True,
                check=False,
            )
            assert (done.returncode, b"cannot listen" in done.stderr) == (1, True)
        agent.start()
        gateway.resume(timeout=5.0)
        gateway.close()


def probe(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10.0) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return 0, ""


@pytest.mark.parametrize("dataplane", DATAPLANES)
def test_probes_tell_a_start_an_end_and_a_hang(dataplane: str) -> None:
    port = free_port()
    with running(dataplane, LIFL_METRICS_PORT=str(port)) as agent:
        assert probe(port, "/readyz") == probe(port, "/healthz") == (200, "ok\n")
        assert probe(port, "/metrics")[0] == 200
        assert agent.process is not None
        agent.stop(signal.SIGHUP)
        assert probe(port, "/readyz") == (0, "")
        seen = []
        agent.process = subprocess.Popen(
            [sys.executable, "-m", "ebpf.agent"], env=agent.env, cwd=ROOT
        )
        until(lambda: seen.append(probe(port, "/readyz")) or seen[-1][0] == 200, 20.0)
        assert {status for status, _ in seen} <= {0, 503, 200}
        statuses = [status for status, _ in seen]
        assert statuses == sorted(statuses, key=[0, 503, 200].index), "never back again"
        assert agent.admin.domains()
