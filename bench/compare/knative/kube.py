"""kubectl, as JSON: the one place of this package that asks a cluster.

Why: whoever runs this has kubectl and a ``KUBECONFIG``; no library has to be right for the server's
version. It must not know what it asks for.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
Object = dict[str, Any]
POLL_SECONDS = 0.25


class ClusterError(RuntimeError):
    """The cluster refused, or lacks something; the text says what."""


class Kube:
    """Runs kubectl with this process's ``KUBECONFIG``."""

    def run(self, *arguments: str, given: str = "", seconds: float = 240.0) -> str:
        """Run kubectl and return what it printed.

        Raises
        ------
        ClusterError
            if there is no kubectl, or it fails; with the end of what it said.
        """
        try:
            done = subprocess.run(
                ("kubectl", *arguments),
                input=given,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except FileNotFoundError as e:
            raise ClusterError("kubectl is not on PATH; install it to reach a cluster") from e
        except subprocess.TimeoutExpired as e:
            raise ClusterError(f"kubectl {arguments[0]} did not end in {seconds:.0f} s") from e
        if done.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-1500:]}")
        return done.stdout

    def get(self, *arguments: str) -> Object:
        """Return what ``kubectl get`` prints as JSON."""
        found: Object = json.loads(self.run("get", *arguments, "-o", "json"))
        return found

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        """Apply objects."""
        whole = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.run("apply", "-f", "-", given=json.dumps(whole))

    def raw(self, path: str) -> str:
        """Return what the API server answers at ``path``, for what has no objects."""
        return self.run("get", "--raw", path)

    def serves(self, group_version: str) -> bool:
        """Whether the cluster knows an API, such as ``eventing.knative.dev/v1``."""
        return group_version in self.run("api-versions").split()


def check_configured() -> None:
    """Raise ClusterError if no cluster is named."""
    if not os.environ.get("KUBECONFIG"):
        raise ClusterError("KUBECONFIG names no cluster; set it to the file that kubectl uses")


def until(ask: Callable[[], T | None], what: str, seconds: float) -> T:
    """Return the first answer that is neither None, False nor empty.

    Raises
    ------
    ClusterError
        after ``seconds``; it says what was waited for, and the last trouble.
    """
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := ask():
                return found
        except (ClusterError, KeyError) as e:
            last = f"; last: {type(e).__name__}: {e}"
        time.sleep(POLL_SECONDS)
    raise ClusterError(f"waited {seconds:.0f} s in vain for {what}{last}")


def condition(found: Mapping[str, Any], kind: str = "Ready") -> tuple[str, str]:
    """Return an object's condition: its status (``""`` if it has none), and what it says."""
    for each in found.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            said = f"{each.get('reason', '')}: {each.get('message', '')}".strip(": ")
            return str(each["status"]), said
    return "", "no such condition yet"
