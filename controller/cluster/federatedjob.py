"""A FederatedJob as the API server has it: names, what it owns, how far it is.

Why: the operator, its status and its definition share these words. It must not do I/O.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

GROUP, VERSION, KIND, PLURAL = "lifl.dev", "v1alpha1", "FederatedJob", "federatedjobs"
API = f"{GROUP}/{VERSION}"
KEY = "auth_key"
"""The member of a job's Secret."""


class Phase(enum.StrEnum):
    """Where a job is, for people."""

    PENDING = "Pending"
    REFUSED = "Refused"
    AWAITING_MODEL = "AwaitingModel"
    RUNNING = "Running"
    COMPLETE = "Complete"
    STOPPED = "Stopped"
    FAILED = "Failed"


CONDITIONS = ("Submitted", "ModelReceived", "Running", "Complete", "Failed", "SpecChanged")
OVER = frozenset({Phase.COMPLETE, Phase.STOPPED, Phase.FAILED})


@dataclass(frozen=True, slots=True)
class Custom:
    """One FederatedJob."""

    name: str
    namespace: str
    uid: str
    generation: int
    spec: Mapping[str, Any]
    status: Mapping[str, Any]

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Self:
        """Read an object as the API server sends it; raises KeyError."""
        metadata = raw["metadata"]
        return cls(
            name=metadata["name"],
            namespace=metadata.get("namespace", ""),
            uid=metadata["uid"],
            generation=int(metadata.get("generation", 1)),
            spec=raw.get("spec") or {},
            status=raw.get("status") or {},
        )

    @property
    def document(self) -> dict[str, Any]:
        """Return the job file's content."""
        return {
            "apiVersion": API,
            "kind": KIND,
            "metadata": {"name": self.name},
            "spec": dict(self.spec),
        }

    @property
    def reference(self) -> dict[str, Any]:
        """Return how events and owned objects name it."""
        return {
            "apiVersion": API,
            "kind": KIND,
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
        }

    @property
    def secret_name(self) -> str:
        """Return the name of the Secret with the job's key."""
        return f"{self.name}-key"

    def secret(self, key: str) -> dict[str, Any]:
        """Return the Secret that holds the job's key (hex)."""
        owner = {k: v for k, v in self.reference.items() if k != "namespace"}
        return {
            "metadata": {
                "name": self.secret_name,
                "namespace": self.namespace,
                "labels": {"lifl.dev/job": self.name},
                "ownerReferences": [owner | {"controller": True}],
            },
            "type": "Opaque",
            "data": {KEY: base64.b64encode(key.encode()).decode()},
        }

    def owns(self, thing: Mapping[str, Any]) -> bool:
        """Whether an object was made for this very job."""
        return any(owner["uid"] == self.uid for owner in _owners(thing))

    def succeeds(self, thing: Mapping[str, Any]) -> bool:
        """Whether an object was made for an earlier job of this name, which is gone."""
        return any(
            (owner["kind"], owner["name"]) == (KIND, self.name) and owner["uid"] != self.uid
            for owner in _owners(thing)
        )


def _owners(thing: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return thing["metadata"].get("ownerReferences") or ()


@dataclass(frozen=True, slots=True)
class Step:
    """How far the operator came with a step: done, or why not (``final``: it gave up)."""

    done: bool
    reason: str
    message: str
    final: bool = False


NOT_YET = Step(False, "Pending", "not tried yet")
SENDING = Step(False, "Sending", "the model is being fetched and sent")


def awaiting_model(name: str, gateway: str = "") -> Step:
    """Return the step of a job whose model somebody has to send."""
    command = f"lifl job model {name} model.safetensors --gateway {gateway or 'URL'}"
    message = f"send it: {command} (LIFL_JOB_KEY: {KEY} of Secret {name}-key)"
    return Step(False, "AwaitingModel", message)


def condition(status: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return one condition of a status, if it has it."""
    found = [c for c in status.get("conditions") or () if c["type"] == kind]
    return dict(found[0]) if found else None


def steps_of(status: Mapping[str, Any]) -> tuple[Step, Step]:
    """Return the steps (submitted, model) as a status tells them, for a restarted operator."""
    final = status.get("phase") == Phase.REFUSED
    found = []
    for kind in ("Submitted", "ModelReceived"):
        known = condition(status, kind)
        if known is None:
            found.append(NOT_YET)
        else:
            done = known["status"] == "True"
            found.append(Step(done, known["reason"], known["message"], final and not done))
    return found[0], found[1]
