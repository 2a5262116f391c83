"""What every platform can do for the controller: start, stop and list aggregators.

Why: the controller's decisions are the same on one machine and on a cluster;
only these verbs differ. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Aggregator:
    """A running aggregator process or pod."""

    name: str
    job: str
    node: str


class Platform(Protocol):
    """Start, stop and list aggregators. All verbs may be repeated."""

    def user(self, job_uid: int | None) -> int:
        """Return the user id that a job's functions run as, given the one set aside for the job."""
        ...

    def start(self, aggregator: Aggregator, uid: int) -> None:
        """Start an aggregator as user ``uid``; nothing happens if it runs already."""
        ...

    def stop(self, names: Sequence[str]) -> None:
        """End aggregators and wait for them; unknown names are ignored."""
        ...

    def running(self) -> list[Aggregator]:
        """Return the aggregators that run, whoever started them."""
        ...

    def wait(self, wakeup: int, timeout: float) -> None:
        """Return when an aggregator has ended, ``wakeup`` is readable or ``timeout`` s are over."""
        ...
