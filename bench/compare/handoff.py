"""One partial sum of an aggregator, handed to the next and added there, by value and LIFL's way.

Why: how fast a descriptor crosses says little about a result that has to be written, carried
and read. Here memory traffic of both ends is within: timed from when the producer has its last
input, all others being in its output, until the next process has all of that in its own sum. Ways:

* ``lifl``: the output is a slot of a reused pool, its descriptor goes the in-kernel route. The
  last input goes beside it, as LIFL's aggregators have it: the next adds both in one pass, and
  the producer none;
* ``lifl_two_passes``: the same, but the producer adds its last input first, as it must where the
  result goes by value (and as LIFL's aggregators did until run F). Not judged, but told;
* ``vanilla``: by value in an event: ingress, Redis Streams, dispatcher, sidecar, function;
* ``direct``: by value in a request through one sidecar, no broker.

The same producer process does all in turn, with the same inputs and weights. Both ends add
as this project's aggregators add what completes a sum, on all processors; by value too, which
the project's function does not do there. What each consumer has is checked every time. Sums are
kept in memory that was touched before, everywhere. CPU is that of all processes, from before to
when the path is quiet again (the event acknowledged and deleted, the slot released). It must
not flatter LIFL: by value there are no checks, no serialisation, and one hop less than a
function's reply takes.
"""

from __future__ import annotations

import mmap
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.compare import handoff_ends, mean
from bench.compare.api import Reference
from bench.compare.groups import open_group
from bench.compare.machine import copying, join_free_memory
from bench.compare.vanilla import sidecar
from bench.figures import Figure, at_least, ratios
from bench.sizes import BYTES
from functions.aggregator.blas import F32

WAYS = ("lifl", "lifl_two_passes", "vanilla", "direct")
N, WARM = 9, 4
LOOKS = 5
"""How often memory's speed is looked at."""
PUBLISHED = {"vanilla": (0.619, 0.667), "direct": (0.175, 0.250)}
"""Seconds for 233.1 MB in both passes of ``c Redis Streams + b`` and of ``b``. Their mean is what a
path is held to: held to the faster one, ``b``'s own slower one would be void."""
PATHS = {
    "vanilla": "c: Redis Streams and a sidecar, 233 MB",
    "direct": "b: one sidecar, 233 MB",
}

FLATTERS = (
    "LIFL's producer leaves its last input to the next one to add, which by value it cannot "
    "(keys that end in _two_passes: it adds it)"
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One hand-off; seconds.

    ``latency``: from when the last input was there until the next process had the result in
    its sum. Within it ``produced`` until the producer had done its part of the sum and ``hop``
    from there until the receiver could read all of it. ``before`` is what the first input took,
    outside of it.
    """

    latency: float
    cpu: float
    produced: float
    hop: float
    before: float


@dataclass(slots=True)
class Result:
    """All samples by way, warm-ups left out, and what was measured with."""

    nbytes: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: {w: [] for w in WAYS})
    versions: dict[str, str] = field(default_factory=dict)
    stand_ins: tuple[str, ...] = ()
    counted: str = ""
    machine: dict[str, float] = field(default_factory=dict)
    """Milliseconds to write a result's bytes into memory that was touched (``copy_ms``; published:
    12 for 233 MB) and into new memory (``fresh_ms``; 165): how fast this machine is just now."""

    def seconds(self, way: str, what: str = "latency") -> list[float]:
        """Return one number of each sample."""
        return [getattr(s, what) for s in self.samples[way]]


def run() -> list[Figure]:
    """Return the hand-off's figures at 233 MB."""
    return figures(measure())


def figures(result: Result) -> list[Figure]:
    """Return latency and CPU of the ways by value over LIFL's, hand-off by hand-off."""
    found = []
    for key, way, what, limit in (
        ("handoff_vanilla_over_lifl", "vanilla", "latency", 12.0),
        ("handoff_cpu_vanilla_over_lifl", "vanilla", "cpu", 12.0),
        ("handoff_direct_over_lifl", "direct", "latency", 5.0),
    ):
        over = ratios(result.seconds(way, what), result.seconds("lifl", what))
        found.append(Figure(key, "ratio", over, at_least(limit), _notes(result, way, what)))
    return found


def references(result: Result) -> list[Reference]:
    """Return how the ways by value did against what is published, hop alone as it was there."""
    megabytes = result.nbytes / 1e6
    return [
        Reference(
            PATHS[way],
            megabytes / statistics.median(result.seconds(way, "hop")),
            BYTES["233mb"] / 1e6 / statistics.mean(passes),
        )
        for way, passes in PUBLISHED.items()
    ]


def _notes(result: Result, way: str, what: str) -> dict[str, Any]:
    def median(side: str, name: str) -> float:
        return round(1e3 * statistics.median(result.seconds(side, name)), 1)

    notes: dict[str, Any] = {f"{side}_ms": median(side, what) for side in ("lifl", way)}
    if what == "latency":
        notes |= {f"{side}_produced_ms": median(side, "produced") for side in ("lifl", way)}
        notes |= {f"{side}_hop_ms": median(side, "hop") for side in ("lifl", way)}
        whole = {
            side: [s.latency + s.before for s in result.samples[side]] for side in ("lifl", way)
        }
        both = statistics.median(ratios(whole[way], whole["lifl"]))
        notes["ratio_with_both_inputs_timed"] = round(both, 2)
    two = ratios(result.seconds(way, what), result.seconds("lifl_two_passes", what))
    notes["ratio_with_two_passes"] = round(statistics.median(two), 2)
    notes |= result.machine
    return notes


def measure(nbytes: int = BYTES["233mb"], n: int = N, warm: int = WARM) -> Result:
    """Hand ``nbytes`` over ``n`` times each way, in turn, after ``warm`` times unmeasured.

    Raises
    ------
    RuntimeError
        if a consumer's sum is wrong.
    ConfigError
        if there is no in-kernel route, no Redis or no proxy here.
    """
    join_free_memory()
    elements = nbytes // 4
    stand_in = sidecar.about()[2]
    result = Result(nbytes, stand_ins=(*([stand_in] if stand_in else []), FLATTERS))
    with open_group("handoff") as group, handoff_ends.opened(group, elements) as ends:
        result.counted = getattr(group, "how", "")
        result.versions = ends.versions
        expected = {way: np.zeros(mean.PLACES, np.float32) for way in WAYS}
        step = handoff_ends.output(handoff_ends.inputs(elements), elements)
        result.machine = _machine(nbytes)
        for number in range(-warm, n):
            for way in WAYS:
                ends.prepare(way)
                before = group.usage()
                told = ends.hand_over(way)
                cpu = group.usage().since(before).cpu
                whose = "lifl" if way in handoff_ends.OBJECTS else way  # both LIFL's end there
                expected[whose] = expected[whose] + step
                _check(way, expected[whose], told["elements"])
                if number >= 0:
                    result.samples[way].append(_sample(told, cpu))
    return result


def _machine(nbytes: int) -> dict[str, float]:
    source, fresh = np.ones(nbytes, np.uint8), []
    for _ in range(LOOKS):
        with mmap.mmap(-1, nbytes) as new:
            began_new = time.monotonic()
            np.copyto(np.frombuffer(new, np.uint8), source)
            fresh.append(time.monotonic() - began_new)
    return {
        "copy_ms": round(1e3 * copying(nbytes, LOOKS), 1),
        "fresh_ms": round(1e3 * statistics.median(fresh), 1),
    }


def _sample(told: Mapping[str, Any], cpu: float) -> Sample:
    return Sample(
        latency=told["added"] - told["started"],
        cpu=cpu,
        produced=told["produced"] - told["started"],
        hop=told["viewed"] - told["produced"],
        before=told["before"],
    )


def _check(way: str, expected: F32, found: F32) -> None:
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
        raise RuntimeError(f"{way}: the consumer's sum is wrong: {found[:4]}, not {expected[:4]}")
