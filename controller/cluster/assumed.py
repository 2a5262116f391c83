"""Bindings that were made and are not seen yet.

Why: the copy of the cluster lags behind, and a seat or room that was given must not be given
again meanwhile. A binding of which the answer was lost counts as made until it is known what
became of it. It must not do I/O, nor read a clock: times are handed in, in seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from controller.cluster.objects import PodView
from controller.cluster.packing import Bind

SECONDS = 30.0
"""How long a binding is believed that the copy of the cluster does not show."""


@dataclass(frozen=True, slots=True)
class _Entry:
    pod: PodView
    until: float
    doubt: Bind | None


class Assumed:
    """What is assumed of pods, by uid. Two threads may add different pods at a time."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def add(self, pod: PodView, now: float, doubt: Bind | None = None) -> None:
        """Assume that a pod is as ``pod``; ``doubt`` is the binding if it may not have been made.

        What is in doubt stays assumed until it is seen, added without doubt or dropped.
        """
        self._entries[pod.uid] = _Entry(pod, now + SECONDS, doubt)

    def drop(self, pod: PodView) -> None:
        """Assume nothing of a pod any more."""
        self._entries.pop(pod.uid, None)

    def doubts(self) -> list[Bind]:
        """Return the bindings of which it is not known whether they were made."""
        return [e.doubt for e in self._entries.values() if e.doubt is not None]

    def over(self, pods: Iterable[PodView], now: float) -> list[PodView]:
        """Return ``pods``, all there are, as they are with what is assumed; forget what is seen.

        That a pod is asked to end is taken from ``pods``.
        """
        seen = list(pods)
        if not self._entries:
            return seen
        kept = {}
        for i, pod in enumerate(seen):
            entry = self._entries.get(pod.uid)
            if entry is not None and not pod.node and (entry.doubt or now < entry.until):
                kept[pod.uid] = entry
                seen[i] = replace(entry.pod, deleting=pod.deleting)
        self._entries = kept
        return seen
