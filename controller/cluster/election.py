"""Who leads: decided from a Lease's content, as client-go's leader election does.

Why: two controllers must never act at once, and their clocks may differ. So nobody reads
the times in the record: a candidate notes by its own clock when the record last *changed*,
and takes over when it stayed the same for as long as it says it is good for. The leader
stops acting well before that. It must not do I/O, nor read a clock: times are handed in,
in seconds of any clock that runs evenly, the stamps of the record apart.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: how long a record is good for, when a leader that cannot renew it gives up,
    and between tries.
    """

    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0

    def __post_init__(self) -> None:
        if not self.lease > self.renew > self.retry > 0:
            raise ValueError(
                f"a lease of {self.lease} s must last longer than its renewal may take "
                f"({self.renew} s), and that longer than the pause between tries ({self.retry} s)"
            )


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease's content; ``holder`` is "" when nobody has it, stamps are as they are written."""

    holder: str = ""
    seconds: float = 0.0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0


@dataclass(frozen=True, slots=True)
class Observed:
    """A record, and when it was first seen like this."""

    record: Record
    at: float


@dataclass(frozen=True, slots=True)
class Acquire:
    """Write this spec: the lease is free, or its holder is gone."""

    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Renew:
    """Write this spec: the lease is ours."""

    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wait:
    """Another holds it, at least ``seconds`` more if it does not renew it."""

    holder: str
    seconds: float


def read(spec: Mapping[str, Any] | None) -> Record:
    """Read a Lease's spec, any field of which may be missing."""
    spec = spec or {}
    return Record(
        str(spec.get("holderIdentity") or ""),
        float(spec.get("leaseDurationSeconds") or 0),
        str(spec.get("acquireTime") or ""),
        str(spec.get("renewTime") or ""),
        int(spec.get("leaseTransitions") or 0),
    )


def observe(before: Observed | None, record: Record, now: float) -> Observed:
    """Return what is known after a look: a record that is as it was keeps its time."""
    if before is not None and before.record == record:
        return before
    return Observed(record, now)


def decide(
    observed: Observed, me: str, now: float, stamp: str, timing: Timing
) -> Acquire | Renew | Wait:
    """Return what to do about a lease; ``stamp`` is the time to write into it.

    Whatever is written must be written on the version that was read, so that of two
    candidates one fails.
    """
    record = observed.record
    if record.holder == me:
        return Renew(_spec(me, timing, record.acquired or stamp, stamp, record.transitions))
    left = observed.at + (record.seconds or timing.lease) - now
    if record.holder and left > 0:
        return Wait(record.holder, left)
    return Acquire(_spec(me, timing, stamp, stamp, record.transitions + 1))


def first(me: str, stamp: str, timing: Timing) -> dict[str, Any]:
    """Return the spec of a lease that did not exist."""
    return _spec(me, timing, stamp, stamp, 0)


def released(record: Record, stamp: str) -> dict[str, Any]:
    """Return the spec by which a holder gives its lease up: the next look takes it."""
    return {
        "holderIdentity": "",
        "leaseDurationSeconds": 1,
        "acquireTime": record.acquired or stamp,
        "renewTime": stamp,
        "leaseTransitions": record.transitions,
    }


def microtime(seconds: float) -> str:
    """Return seconds since 1970 as Kubernetes' MicroTime."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _spec(me: str, timing: Timing, acquired: str, renewed: str, transitions: int) -> dict[str, Any]:
    return {
        "holderIdentity": me,
        "leaseDurationSeconds": math.ceil(timing.lease),
        "acquireTime": acquired,
        "renewTime": renewed,
        "leaseTransitions": transitions,
    }
