"""What a server optimizer is, and how one is applied block by block.

Why: a strategy is a pure function ``(model, mean, state) -> (model, state)``,
run once per version. Applied in blocks that fit the cache it needs no temporary
of a model's size, and may write straight into shared memory and files. It must
not do I/O.

The *change* Δ a strategy sees is the weighted mean of the clients' deltas, or
the weighted mean of their weights less the model: the negative pseudo-gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from lifl.errors import ConfigError

Floats = np.ndarray[Any, np.dtype[np.float32]]
BLOCK = 1 << 16
"""Elements of a block: 256 KiB of float32; five of them fit a core's second-level cache."""


class Diverged(ConfigError):
    """The new model would hold NaN or infinite values."""


class Strategy(Protocol):
    """A server optimizer. ``vectors`` are the names of its state, each as long as the model."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Return the names of the state vectors."""

    @property
    def plain_mean(self) -> bool:
        """Whether the new model is the mean of the clients' weights, whatever the old one was."""

    def initial(self, vector: str) -> float:
        """Return the value every element of a state vector has before the first version."""

    def step(
        self,
        model: Floats,
        change: Floats,
        old: Mapping[str, Floats],
        new: Mapping[str, Floats],
        out: Floats,
    ) -> None:
        """Advance one block: write the new state into ``new`` and the new model into ``out``.

        All arrays have one length. ``change`` may be overwritten; ``model`` and
        ``old`` may not; ``new`` and ``out`` do not overlap the others.
        """


class Part(NamedTuple):
    """A partial result: Σ n·w of its updates, or with ``is_mean`` their mean; ``weight`` is Σ n."""

    floats: Floats
    weight: float
    is_mean: bool = False


def mean_into(parts: Sequence[Part], start: int, end: int, out: Floats, scratch: Floats) -> None:
    """Write elements ``[start, end)`` of the weighted mean of all parts into ``out``.

    The sums are added as they are and divided once by the whole weight.
    """
    total = sum(p.weight for p in parts)
    first, *others = parts
    block = first.floats[start:end]
    if not others:
        if first.is_mean:
            out[:] = block
        else:
            np.divide(block, total, out=out)
        return
    np.multiply(block, first.weight if first.is_mean else 1.0, out=out)
    for part in others:
        block = part.floats[start:end]
        if part.is_mean:
            block = np.multiply(block, part.weight, out=scratch[: end - start])
        np.add(out, block, out=out)
    np.divide(out, total, out=out)


def advance(
    strategy: Strategy,
    model: Floats,
    parts: Sequence[Part],
    *,
    old: Mapping[str, Floats],
    new: Mapping[str, Floats],
    out: Floats,
    delta: bool,
    made: Callable[[int], None] | None = None,
    span: tuple[int, int] | None = None,
) -> None:
    """Make the next model in ``out`` and the next state in ``new``, block by block.

    ``delta`` says that the parts hold deltas, not weights. All arrays are flat
    float32 of ``len(out)`` elements (those of ``parts`` may be longer). ``made`` is told
    after each block how many elements of ``out`` are as they will be. With a ``span`` only its
    elements, from the first up to before the last, are made.

    Raises
    ------
    Diverged
        if the result is not finite; ``out`` and ``new`` are void then.
    """
    change, scratch = np.empty((2, min(BLOCK, len(out))), np.float32)
    direct = strategy.plain_mean and not delta
    first, last = span or (0, len(out))
    with np.errstate(all="ignore"):  # what overflows is found below
        for start in range(first, last, BLOCK):
            end = min(start + BLOCK, last)
            here, size = out[start:end], end - start
            if direct:
                mean_into(parts, start, end, here, scratch)
            else:
                mean_into(parts, start, end, change[:size], scratch)
                if not delta:
                    np.subtract(change[:size], model[start:end], out=change[:size])
                strategy.step(
                    model[start:end],
                    change[:size],
                    {k: v[start:end] for k, v in old.items()},
                    {k: v[start:end] for k, v in new.items()},
                    here,
                )
            _check_finite(here, start)
            if made is not None:
                made(end)


def _check_finite(block: Floats, start: int) -> None:
    """Raise Diverged unless all is finite; the sum of squares is, unless it overflows."""
    if np.isfinite(np.dot(block, block)):
        return
    finite = np.isfinite(block)
    if not finite.all():
        at = start + int(np.argmin(finite))
        raise Diverged(f"element {at} of the new model is not finite; is the rate too high?")


def apply(
    strategy: Strategy,
    model: Floats,
    mean: Floats,
    state: Mapping[str, Floats],
    *,
    delta: bool = False,
) -> tuple[Floats, dict[str, Floats]]:
    """Return the next model and state; the arguments are not changed.

    ``mean`` is the weighted mean of the clients' weights, or of their deltas
    with ``delta``. An empty ``state`` is that before the first version.
    """
    old = dict(state) or initial_state(strategy, len(model))
    new = {name: np.empty(len(model), np.float32) for name in old}
    out = np.empty_like(model)
    parts = [Part(mean, 1.0, is_mean=True)]
    advance(strategy, model, parts, old=old, new=new, out=out, delta=delta)
    return out, new


def initial_state(strategy: Strategy, elements: int) -> dict[str, Floats]:
    """Return a strategy's state before the first version: read-only vectors without memory."""
    return {
        name: np.broadcast_to(np.float32(strategy.initial(name)), elements)
        for name in strategy.vectors
    }
