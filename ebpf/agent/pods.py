"""Functions of a cluster are known by their pod, and by what was signed for it.

Why: the kernel says in which pod a process is, and the controller signs what that
pod may be; so a function can be nobody else, whatever it runs as or says.

It must not keep state, and must not quote a token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ebpf.agent.domains import Domain
from ebpf.agent.edge import RefusedError
from ebpf.agent.peers import Process
from lifl.auth import ANY_JOB, AuthError, verify_registration
from lifl.wire import Kind

_UUID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}"
_HASH = r"[0-9a-f]{32}"  # of a static pod, which the kubelet has from a file
_POD = re.compile(
    rf"(?:^|-)pod(?P<uid>{_UUID}|{_HASH})"  # pod…, kubepods-pod…, kubepods-burstable-pod…
    r"(?:\.slice(?::.*)?)?\Z"  # cgroupfs: nothing; systemd: .slice; that without a unit: .slice:…
)
_USERS = "user.slice"
_SERVE_ALL_JOBS = frozenset({Kind.GATEWAY, Kind.COORDINATOR})


@dataclass(frozen=True, slots=True)
class ByPod:
    """A function shows a token that the platform's secret signed for the pod it runs in.

    ``cgroups`` returns a living process's ``/proc/PID/cgroup``; raises ProcessLookupError.
    """

    secret: bytes = field(repr=False)
    cgroups: Callable[[Process], str] = Process.cgroups

    def check(
        self, process: Process, kind: Kind, name: str, domain: Domain, request: Mapping[str, Any]
    ) -> None:
        """See :class:`ebpf.agent.identity.Identity`."""
        pod = self._pod(process)
        token = request.get("token")
        if not isinstance(token, str) or not token:
            raise RefusedError(
                "token-missing",
                f"the function in pod {pod} shows no registration token; it is set in "
                "LIFL_REGISTRATION when the pod is bound to its node by lifl-scheduler",
            )
        try:
            allowed = verify_registration(token, self.secret)
        except AuthError as e:
            raise RefusedError(
                e.code, f"the registration token of pod {pod} is refused: {e}"
            ) from e
        if allowed.pod != pod:
            raise RefusedError(
                "other-pod", f"the registration token was made for another pod, not for {pod}"
            )
        any_job = allowed.job == ANY_JOB and kind in _SERVE_ALL_JOBS
        job = domain.name if any_job else allowed.job
        asked, granted = (kind.name.lower(), name, domain.name), (allowed.kind, allowed.name, job)
        if asked != granted:
            raise RefusedError(
                "forbidden",
                f"pod {pod} may be {_text(allowed.kind, allowed.name, allowed.job)}, "
                f"not {_text(*asked)}",
            )

    def _pod(self, process: Process) -> str:
        try:
            pod = pod_uid(self.cgroups(process))
        except ProcessLookupError as e:
            raise RefusedError("gone", str(e)) from e
        if pod is None:
            raise RefusedError("no-pod", f"process {process.pid} is in no pod of this node")
        return pod


def pod_uid(cgroups: str) -> str | None:
    """Return the UID of the pod that a process is in, None if it is in none.

    ``cgroups`` is ``/proc/PID/cgroup`` (cgroups(7)): a line ``number:controllers:path``
    for each hierarchy, absolute or, seen from another cgroup namespace, relative
    (``/../..``). The kubelet makes a cgroup for each pod, named by its UID, and the
    runtime those of the containers below it. Below its own a container may make others
    and name them as it likes, so the outermost counts; so may a user of the machine below
    ``user.slice``, where the kubelet makes none; hierarchies that differ are no pod's.
    """
    found = {uid for line in cgroups.splitlines() if (uid := _outermost(line)) is not None}
    return found.pop() if len(found) == 1 else None


def _outermost(line: str) -> str | None:
    for part in line.partition(":")[2].partition(":")[2].split("/"):
        if part == _USERS:
            return None
        match = _POD.search(part)
        if match:
            return match["uid"].replace("_", "-")  # systemd keeps "-" for levels
    return None


def _text(kind: str, name: str, job: str) -> str:
    return f"{kind[:80]} {name[:80]} of {'any job' if job == ANY_JOB else f'job {job[:80]}'}"
