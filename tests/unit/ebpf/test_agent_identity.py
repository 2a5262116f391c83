"""Which pod a process is in, and what a function in it may be."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebpf.agent import identity
from ebpf.agent.domains import Domain
from ebpf.agent.edge import RefusedError
from ebpf.agent.identity import ByUser
from ebpf.agent.peers import Process
from ebpf.agent.pods import ByPod, pod_uid
from ebpf.agent.settings import AgentSettings
from ebpf.agent.settle import Dispatcher
from lifl.auth import ANY_JOB, mint_platform_token, mint_registration_token
from lifl.store import PoolGeometry
from lifl.wire import Kind

SECRET = b"s" * 32
POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
OTHER = "11111111-2222-3333-4444-555555555555"
UNIT = POD.replace("-", "_")
HASH = "8c1c7b3d2b5a4f8e9d0c1b2a3f4e5d6c"
CONTAINER = "5a" * 32

IN_A_POD = {
    "v1": "\n".join(
        f"{n}:{c}:/kubepods/burstable/pod{POD}/{CONTAINER}"
        for n, c in ((12, "pids"), (11, "memory"), (4, "cpu,cpuacct"), (1, "name=systemd"))
    ),
    "v1-hybrid": f"3:cpuset:/\n2:memory:/kubepods/pod{POD}/{CONTAINER}\n1:name=systemd:/\n0::/",
    "v1-systemd": (
        f"9:pids:/kubepods.slice/kubepods-pod{UNIT}.slice/docker-{CONTAINER}.scope\n"
        f"1:name=systemd:/kubepods.slice/kubepods-pod{UNIT}.slice/docker-{CONTAINER}.scope\n"
    ),
    "v2-cgroupfs": f"0::/kubepods/besteffort/pod{POD}/{CONTAINER}\n",
    "v2-guaranteed": f"0::/kubepods/pod{POD}/{CONTAINER}",
    "v2-containerd": (
        "0::/kubepods.slice/kubepods-burstable.slice/"
        f"kubepods-burstable-pod{UNIT}.slice/cri-containerd-{CONTAINER}.scope\n"
    ),
    "v2-crio": (
        "0::/kubepods.slice/kubepods-besteffort.slice/"
        f"kubepods-besteffort-pod{UNIT}.slice/crio-{CONTAINER}.scope/container"
    ),
    "containerd-without-units": (
        f"0::/system.slice/containerd.service/kubepods-burstable-pod{UNIT}.slice"
        f":cri-containerd:{CONTAINER}"
    ),
    "relative-cgroupfs": f"0::/../../pod{POD}/{CONTAINER}",
    "relative-cgroupfs-other-class": f"0::/../../../besteffort/pod{POD}/{CONTAINER}",
    "relative-systemd": (
        f"0::/../../kubepods-burstable-pod{UNIT}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "relative-systemd-other-class": (
        "0::/../../../kubepods-besteffort.slice/"
        f"kubepods-besteffort-pod{UNIT}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "kind": (
        f"0::/docker/{CONTAINER}/kubelet.slice/kubelet-kubepods.slice/"
        f"kubelet-kubepods-pod{UNIT}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "of-the-pod-itself": f"0::/kubepods/pod{POD}",
    # A container may make cgroups below its own, and call them what it likes.
    "named-by-a-container": f"0::/kubepods/pod{POD}/{CONTAINER}/kubepods/pod{OTHER}/{CONTAINER}",
    "sliced-by-a-container": (
        f"0::/kubepods.slice/kubepods-pod{UNIT}.slice/cri-containerd-{CONTAINER}.scope/"
        f"kubepods-pod{OTHER.replace('-', '_')}.slice"
    ),
}

IN_NONE = {
    "nothing": "",
    "root": "0::/\n",
    "the-agent's-own": "0::/../" + CONTAINER,
    "service": "0::/system.slice/sshd.service",
    "docker": f"0::/docker/{CONTAINER}",
    "podman": f"0::/machine.slice/libpod-{CONTAINER}.scope",
    "podman-pod": f"0::/machine.slice/machine-libpod_pod_{CONTAINER}.slice/libpod-x.scope",
    "no-uid": f"0::/kubepods/podless/{CONTAINER}",
    "long-uid": f"0::/kubepods/pod{POD}0/{CONTAINER}",
    "not-a-part-of-its-own": f"0::/kubepods/xpod{POD}/{CONTAINER}",
    "no-slice": f"0::/kubepods/pod{POD}.scope",
    "of-a-user": f"0::/user.slice/user-1000.slice/user@1000.service/pod{POD}/x",
    "relative-of-a-user": f"0::/../../../user.slice/user-1000.slice/kubepods/pod{POD}/x",
    "two": f"2:memory:/kubepods/pod{POD}/x\n1:cpu:/kubepods/pod{OTHER}/x",
    "no-cgroup-lines": f"pod{POD}\nx:pod{POD}\n\n:\n::",
}


@pytest.mark.parametrize("how", IN_A_POD)
def test_a_pod_is_found(how: str) -> None:
    assert pod_uid(IN_A_POD[how]) == POD


@pytest.mark.parametrize("how", IN_NONE)
def test_who_is_in_no_pod(how: str) -> None:
    assert pod_uid(IN_NONE[how]) is None


def test_a_static_pods_uid_is_a_hash() -> None:
    assert pod_uid(f"0::/kubepods/burstable/pod{HASH}/{CONTAINER}") == HASH
    unit = f"0::/kubepods.slice/kubepods-pod{HASH}.slice/cri-containerd-{CONTAINER}.scope"
    assert pod_uid(unit) == HASH


@given(st.uuids(), st.sampled_from(["", "-burstable", "-besteffort"]), st.booleans())
def test_any_uid_comes_back(uid: Any, quality: str, systemd: bool) -> None:
    part = f"kubepods{quality}-pod{str(uid).replace('-', '_')}.slice" if systemd else f"pod{uid}"
    assert pod_uid(f"0::/../../{part}/{CONTAINER}") == str(uid)


@given(st.text())
def test_arbitrary_text_is_no_error(text: str) -> None:
    pod_uid(text)
    pod_uid(f"0::/kubepods/{text}")


# -- what a function may be ---------------------------------------------------------------


def domain(name: str = "digits", uid: int = 1000) -> Domain:
    return Domain(1, name, uid, PoolGeometry(4, 4096, 4096), 0, Dispatcher(0.1))


def token(secret: bytes = SECRET, pod: str = POD, **changed: str) -> str:
    who = {"kind": "aggregator", "name": "digits-agg-3", "job": "digits"} | changed
    return mint_registration_token(secret, pod, **who)  # type: ignore[arg-type]


def refusal(
    request: dict[str, Any],
    cgroups: str = IN_A_POD["v1"],
    kind: Kind = Kind.AGGREGATOR,
    name: str = "digits-agg-3",
) -> RefusedError | None:
    """Ask as process 7 of some user; None if it may."""
    by_pod = ByPod(SECRET, lambda process: cgroups)
    try:
        by_pod.check(Process.gone(7, 4711, 0), kind, name, domain(), request)
    except RefusedError as e:
        assert not e.again
        return e
    return None


def test_a_token_for_this_very_pod_and_function_is_enough() -> None:
    assert refusal({"token": token()}) is None
    assert refusal({"token": token()}, IN_A_POD["relative-systemd"]) is None


@pytest.mark.parametrize("kind", [Kind.GATEWAY, Kind.COORDINATOR])
def test_gateway_and_coordinator_serve_any_job(kind: Kind) -> None:
    word = kind.name.lower()
    for job in (ANY_JOB, "digits"):
        assert (
            refusal({"token": token(kind=word, name=word, job=job)}, kind=kind, name=word) is None
        )
    refused = refusal({"token": token(kind=word, name=word, job="faces")}, kind=kind, name=word)
    assert refused is not None
    assert refused.code == "forbidden"


@pytest.mark.parametrize(
    ("request_", "cgroups", "code"),
    [
        ({}, "v1", "token-missing"),
        ({"token": ""}, "v1", "token-missing"),
        ({"token": None}, "v1", "token-missing"),
        ({"token": ["x"]}, "v1", "token-missing"),
        ({"token": "x.y.z"}, "v1", "token-invalid"),
        ({"token": mint_platform_token(SECRET, POD)}, "v1", "token-other-job"),
        ({"token": token(secret=b"o" * 32)}, "v1", "token-invalid"),
        ({"token": token(pod=OTHER)}, "v1", "other-pod"),
        ({"token": token(kind="gateway")}, "v1", "forbidden"),
        ({"token": token(name="digits-agg-4")}, "v1", "forbidden"),
        ({"token": token(job="faces")}, "v1", "forbidden"),
        ({"token": token(job=ANY_JOB)}, "v1", "forbidden"),
        ({"token": token()}, "root", "no-pod"),
        ({"token": token()}, "two", "no-pod"),
    ],
)
def test_anything_else_is_refused(request_: dict[str, Any], cgroups: str, code: str) -> None:
    refused = refusal(request_, (IN_A_POD | IN_NONE)[cgroups])
    assert refused is not None
    assert refused.code == code
    shown = request_.get("token")
    assert not (isinstance(shown, str) and shown and shown in refused.detail)


def test_a_refusal_says_what_was_granted_and_what_was_asked() -> None:
    refused = refusal({"token": token(name="digits-agg-4")})
    assert refused is not None
    assert refused.detail == (
        f"pod {POD} may be aggregator digits-agg-4 of job digits, "
        "not aggregator digits-agg-3 of job digits"
    )


def test_a_process_that_ends_meanwhile_is_refused() -> None:
    """Its pid may be another pod's process by the time that /proc is read."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process(child.pid, os.getuid(), 0, os.pidfd_open(child.pid))
        assert "\n" in process.cgroups()
        child.communicate(b"\n")
    process.pid = os.getpid()  # as if it were used again
    with pytest.raises(RefusedError) as caught:
        ByPod(SECRET).check(process, Kind.AGGREGATOR, "a", domain(), {"token": token()})
    assert caught.value.code == "gone"
    process.close()


def test_users_decide_on_one_machine() -> None:
    by_user = ByUser(frozenset({0, 10}))
    for uid, kind, allowed in [
        (1000, Kind.AGGREGATOR, True),
        (0, Kind.AGGREGATOR, False),
        (10, Kind.GATEWAY, True),
        (0, Kind.COORDINATOR, True),
        (1000, Kind.GATEWAY, False),
    ]:
        try:
            by_user.check(Process.gone(7, uid, 0), kind, "x", domain(uid=1000), {})
        except RefusedError as e:
            assert not allowed
            assert (e.code, f"not {uid}" in e.detail) == ("forbidden", True)
        else:
            assert allowed


def test_the_settings_decide_which() -> None:
    users = frozenset({0})
    assert identity.of(AgentSettings.from_env({}), users) == ByUser(users)
    env = {"LIFL_IDENTITY": "pod", "LIFL_PLATFORM_SECRET": SECRET.hex()}
    assert identity.of(AgentSettings.from_env(env), users) == ByPod(SECRET)
