"""The next model and optimizer state, made in their final places.

Why: the model is written from the partials into a slot of the pool in one
pass, its checkpoint from the same bytes close behind, the state straight into its files: no
temporary of a model's size. It must not decide when, and changes nothing that
is in force: until the version is committed all of it can be thrown away.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

from functions.coordinator.checkpoint import MODEL, Checkpoints, Draft, Floats
from functions.coordinator.records import VersionRecord
from functions.coordinator.shelf import Held, Shelf
from functions.coordinator.strategies import BLOCK, Strategy, advance, initial_state
from lifl import crash
from lifl.store import SlotRef

SHARE = 1 << 20
"""Fewer elements (4 MB) are not worth a thread."""
THREADS = 8
"""Memory is not faster with more."""

Span = tuple[int, int]


class NewVersion(NamedTuple):
    """The files' names, and the state vectors in them."""

    model_file: str
    vector_files: dict[str, str]
    state: dict[str, Floats]


class Optimizer:
    """A job's strategy with its state vectors."""

    def __init__(
        self, strategy: Strategy, elements: int, checkpoints: Checkpoints, version: VersionRecord
    ) -> None:
        self._strategy = strategy
        self._elements = elements
        if version.vector_files:
            self.state = checkpoints.vectors(version.vector_files, elements)
        else:
            self.state = initial_state(strategy, elements)

    def make(
        self,
        shelf: Shelf,
        draft: Draft,
        ref: SlotRef,
        held: Sequence[Held],
        *,
        delta: bool,
        write: bool,
    ) -> NewVersion:
        """Make the next model in slot ``ref``, and its files.

        With ``write`` these are on the disk then; without, the state's have their names but are
        not synced, and the model's is left to whoever keeps the version. Assign the
        returned state to :attr:`state` once the version is committed.

        Raises
        ------
        Diverged
            if the new model is not finite.
        Fenced
            if the agent took this function's leases back meanwhile.
        OSError
            if the disk is full or fails.
        """
        shelf.fill(ref, held)
        files: dict[str, str] = {}
        state: dict[str, Floats] = {}
        for name in self._strategy.vectors:
            files[name], state[name] = draft.map_vector(name, self._elements)

        def compute(made: Callable[[int], None] | None = None, span: Span | None = None) -> None:
            advance(
                self._strategy,
                shelf.floats(shelf.model),
                shelf.parts(held),
                old=self.state,
                new=state,
                out=shelf.floats(ref),
                delta=delta,
                made=made,
                span=span,
            )
            crash.point("computed")

        if not write:
            _together(lambda span: compute(span=span), _spans(self._elements))
            draft.settle()
            return NewVersion(draft.name(MODEL), files, state)
        model_file, writing = draft.write_model(shelf.document(ref))
        with writing:
            compute(lambda elements: writing.ready(shelf.bytes_before(elements)))
        shelf.check(ref)
        draft.keep()
        crash.point("checkpointed")
        return NewVersion(model_file, files, state)


def _spans(elements: int) -> list[Span]:
    """Cut a model into parts for as many threads as there are processors for it."""
    threads = max(1, min(THREADS, len(os.sched_getaffinity(0)), elements // SHARE))
    ends = [elements * i // threads // BLOCK * BLOCK for i in range(threads)] + [elements]
    return list(pairwise(ends))


def _together(run: Callable[[Span], None], spans: Sequence[Span]) -> None:
    """Run all at a time, the first in this thread; raises what one of them raised."""
    first, *others = spans
    with ThreadPoolExecutor(max(1, len(others)), thread_name_prefix="compute") as helpers:
        waiting = [helpers.submit(run, span) for span in others]
        run(first)
        for done in waiting:
            done.result()
