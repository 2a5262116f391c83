"""What pods ask for and nodes have: cpu, memory and the rest, as whole numbers.

Why: rooms are compared and summed thousands of times a pass, and Kubernetes' quantities
("1500m", "2Gi", "1e3") must mean here exactly what they mean to the kubelet, which
rounds up. It must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MOST = 2**63 - 1
"""Kubernetes caps quantities here."""

_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_QUANTITY = re.compile(
    r"([+-]?)(?:([0-9]+)\.?([0-9]*)|\.([0-9]+))(?:[eE]([+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]?))\Z"
)
_LONGEST = 100
"""Characters of a quantity; the longest that means anything is far shorter."""


@lru_cache(4096)
def quantity(text: str | float, scale: int = 0) -> int:
    """Return a quantity in units of ``10**-scale`` (3: thousandths), rounded away from zero.

    Raises
    ------
    ValueError
        if it is not a Kubernetes quantity.
    """
    raw = str(text)
    found = _QUANTITY.match(raw) if len(raw) <= _LONGEST else None
    if found is None:
        raise ValueError(f"{raw[:_LONGEST]!r} is not a quantity such as 250m, 1.5 or 2Gi")
    sign, whole, part, only_part, exponent, suffix = found.groups(default="")
    part = part or only_part
    amount = int((whole or "0") + part)
    ten = scale - len(part) + (int(exponent) if exponent else _DECIMAL.get(suffix, 0))
    two = _BINARY.get(suffix, 0)
    if not amount:
        return 0
    if ten > _LONGEST:  # neither way is a power to be worked out that nobody can mean
        return MOST if sign != "-" else -MOST
    if ten < -2 * _LONGEST:
        amount, ten, two = 1, 0, 0
    top = (amount << two) * int(10 ** max(ten, 0))
    rounded = min(-(-top // int(10 ** max(-ten, 0))), MOST)
    return -rounded if sign == "-" else rounded


@dataclass(frozen=True, slots=True)
class Resources:
    """Amounts: ``cpu`` in millicores, ``memory`` and ``ephemeral`` (storage) in bytes, ``pods``.

    ``other`` are extended resources (devices, huge pages) by name, sorted.
    """

    cpu: int = 0
    memory: int = 0
    ephemeral: int = 0
    pods: int = 0
    other: tuple[tuple[str, int], ...] = ()

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | None) -> Resources:
        """Read a resource list such as ``{"cpu": "250m"}``; raises ValueError."""
        if not raw:
            return NOTHING
        other = tuple(sorted((k, quantity(v)) for k, v in raw.items() if k not in _PLAIN))
        return cls(
            quantity(raw.get("cpu", 0), 3),
            quantity(raw.get("memory", 0)),
            quantity(raw.get("ephemeral-storage", 0)),
            quantity(raw.get("pods", 0)),
            other,
        )

    def __add__(self, more: Resources) -> Resources:
        return Resources(
            self.cpu + more.cpu,
            self.memory + more.memory,
            self.ephemeral + more.ephemeral,
            self.pods + more.pods,
            _merged(self.other, more.other, 1) if self.other or more.other else (),
        )

    def __sub__(self, less: Resources) -> Resources:
        """Return what is left; below zero where more was taken than there was."""
        return Resources(
            self.cpu - less.cpu,
            self.memory - less.memory,
            self.ephemeral - less.ephemeral,
            self.pods - less.pods,
            _merged(self.other, less.other, -1) if self.other or less.other else (),
        )

    def most(self, than: Resources) -> Resources:
        """Return the greater amount of each."""
        mine, its = dict(self.other), dict(than.other)
        return Resources(
            max(self.cpu, than.cpu),
            max(self.memory, than.memory),
            max(self.ephemeral, than.ephemeral),
            max(self.pods, than.pods),
            tuple((k, max(mine.get(k, 0), its.get(k, 0))) for k in sorted(mine | its)),
        )

    def fits(self, room: Resources) -> bool:
        """Say whether ``room`` has as much; what is not asked for cannot be lacking."""
        return not self.lacking(room)

    def lacking(self, room: Resources) -> list[str]:
        """Return what ``room`` has too little of, in kube-scheduler's words."""
        found = []
        if self.pods > 0 and self.pods > room.pods:
            found.append("Too many pods")
        if self.cpu > 0 and self.cpu > room.cpu:
            found.append("Insufficient cpu")
        if self.memory > 0 and self.memory > room.memory:
            found.append("Insufficient memory")
        if self.ephemeral > 0 and self.ephemeral > room.ephemeral:
            found.append("Insufficient ephemeral-storage")
        if self.other:
            there = dict(room.other)
            found += [f"Insufficient {k}" for k, v in self.other if 0 < v > there.get(k, 0)]
        return found


def _merged(
    one: tuple[tuple[str, int], ...], two: tuple[tuple[str, int], ...], sign: int
) -> tuple[tuple[str, int], ...]:
    sums = dict(one)
    for name, amount in two:
        sums[name] = sums.get(name, 0) + sign * amount
    return tuple(sorted(sums.items()))


_PLAIN = frozenset({"cpu", "memory", "ephemeral-storage", "pods"})
NOTHING = Resources()


def pod_requests(spec: Mapping[str, Any], status: Mapping[str, Any]) -> Resources:
    """Return what a pod takes of its node, as Kubernetes counts it.

    The sum of its containers and of the init containers that stay, or what an init container
    needs at its time if that is more; what the pod as a whole asks for goes before; plus the
    overhead. While a container is being resized, the greater of old and new counts.
    """
    now = {s["name"]: s for s in status.get("containerStatuses") or ()}
    now |= {s["name"]: s for s in status.get("initContainerStatuses") or ()}
    running = staying = at_start = NOTHING
    for container in spec.get("containers") or ():
        running += _container(container, now)
    for container in spec.get("initContainers") or ():
        asked = _container(container, now)
        if container.get("restartPolicy") == "Always":
            running += asked
            staying += asked
        else:
            at_start = at_start.most(asked + staying)
    total = running.most(at_start)
    whole = (spec.get("resources") or {}).get("requests")
    if whole:
        total = _instead(total, Resources.parse(whole), whole)
    return total + Resources.parse(spec.get("overhead")) + Resources(pods=1)


def _container(container: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> Resources:
    asked = Resources.parse((container.get("resources") or {}).get("requests"))
    status = now.get(container.get("name", ""))
    if status is not None:
        for given in (
            status.get("allocatedResources"),
            (status.get("resources") or {}).get("requests"),
        ):
            if given:
                asked = asked.most(Resources.parse(given))
    return asked


def _instead(total: Resources, whole: Resources, named: Mapping[str, Any]) -> Resources:
    other = dict(total.other) | dict(whole.other)
    return Resources(
        whole.cpu if "cpu" in named else total.cpu,
        whole.memory if "memory" in named else total.memory,
        total.ephemeral,
        total.pods,
        tuple(sorted(other.items())),
    )
