"""What comes of an event in a job, as plain values.

Why: the data thread makes them, the job takes them, HTTP answers from them; none of
these should import another for a type. It must hold no logic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from functions.coordinator.records import Claim

Tell = Callable[[], None]
"""Tells watchers of a change, once whoever caused it has his answer."""


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where the present model lies in shared memory; bytes within the slot."""

    node: str
    slot: int
    generation: int
    doc_start: int
    doc_bytes: int


@dataclass(frozen=True, slots=True)
class Made:
    """A new version: the updates in it, Σ n, and its files' names.

    ``summed`` is when the last of its sums was sealed, unix seconds. The files are on the disk
    if it is ``kept``; else it is sealed in the pool, as ``serial``.
    """

    cover: tuple[int, ...]
    weight: float
    summed: float
    model_file: str
    vector_files: dict[str, str]
    kept: bool = True
    serial: int = 0


class Counted(NamedTuple):
    """What became of an update: its claim, or its client's that was here; and whom to tell."""

    claim: Claim
    duplicate: bool
    tell: Tell
