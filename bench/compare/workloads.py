"""What is run: workloads with their sides, rounds and arrivals, quick and in full.

Why: which sides meet on which load, how often, and what is left out for want of memory has to be
readable in one place and the same in every run. It must not run anything.

Memory. A machine that swaps, or kills, measures nothing. Before a workload the runner adds up
what each side would hold: so many times what all clients of a round send, from
``FACTORS``, beside a fixed sum for its processes. Sides whose sum does not fit are run one after
the other; one that does not even fit alone is left out, and the report says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.compare import arrivals
from bench.compare.api import Load
from bench.compare.steps import ABLATION

MB = 1_000_000
FACTORS: Mapping[str, tuple[float, int]] = {
    "lifl": (2.0, 500 * MB),
    "lifl-socket": (2.0, 500 * MB),
    "lifl-durable": (2.0, 500 * MB),
    "lifl-tree": (2.0, 500 * MB),
    "step": (1.6, 1500 * MB),
    "serverful": (2.0, 400 * MB),
    "serverful-flat": (2.0, 400 * MB),
    "vanilla": (4.5, 800 * MB),
    "vanilla-warm": (4.5, 800 * MB),
    "flower": (5.2, 400 * MB),
    "flower-inprocess": (2.0, 300 * MB),
    "nvflare": (3.6, 400 * MB),
}
"""By side: how many times a round's updates, and bytes besides. Vanilla's is that of a hop
through Redis; Flower's and NVFlare's are of their published peaks; LIFL's and the always-on
server's are estimates."""
SHARE = 0.75
"""Of the memory that is available, what sides may hold: clients' sockets need some as well."""
TRIO = ("lifl", "serverful", "vanilla")
PEERS = ("flower", "nvflare")
VARIANTS = ("lifl-socket", "lifl-durable", "lifl-tree", "serverful-flat", "vanilla-warm")
BURSTS: Sequence[int] = ABLATION["bursts"]
STEPS = tuple(f"step-{i}-{s['name']}" for i, s in enumerate(ABLATION["steps"]))
ANEW = tuple(s for s in STEPS[: next(i for i, s in enumerate(STEPS) if "reuse" in s)])
"""Steps before reuse: each round starts its aggregators, so that there is nothing to warm up."""
LONG = dict.fromkeys(STEPS[:2], 3)
"""Steps before the hierarchy: their rounds take more than twice as long as the next one's."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A load, who plays it, and how often.

    ``together``: all sides are up at once and play in turn, round by round; else they follow one
    another, each for itself, ``passes`` times over, ``rounds`` in each. ``arrive`` is how
    updates arrive, ``purpose`` what the workload is for, for people.
    """

    load: Load
    sides: tuple[str, ...]
    arrive: str
    purpose: str
    rounds: int = 5
    warm: int = 1
    together: bool = True
    passes: int = 1
    few: Mapping[str, int] = field(default_factory=dict)
    """Sides whose rounds take so long that they play only so many."""
    cold: tuple[str, ...] = ()
    """Sides without a warm-up: they start anew in each round, or their rounds are too long."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Sides that are called otherwise than they call themselves."""

    @property
    def name(self) -> str:
        """Return the load's name."""
        return self.load.name

    def warm_ups(self, side: str) -> int:
        """Return how many rounds of a pass a side plays before those that count."""
        if side in self.cold:
            return 0
        return self.warm * max(1, len(set(self.load.sizes)))

    def plays(self, side: str) -> int:
        """Return how many rounds a side plays in all, warm-ups included."""
        return (self.few.get(side, self.rounds) + self.warm_ups(side)) * self.passes


def quick() -> list[Workload]:
    """Return what runs in under five minutes on two cores, with the rest of a quick run.

    Trimmed by what parts took (``budget``): each peer plays one round (Flower's takes 25 s),
    there are no other arrivals than a burst, and the ablation, of whose steps each takes 10 s to
    start, is its first and its last.
    """
    return [
        _burst(
            8,
            "45mb",
            (*TRIO, *PEERS),
            rounds=3,
            few={"vanilla": 2, "flower": 1, "nvflare": 1},
            cold=("vanilla", *PEERS),
        ),
        _ablation(BURSTS[0], rounds=2, passes=1, steps=(STEPS[0], STEPS[-1]), cold=ANEW),
    ]


def full() -> list[Workload]:
    """Return what runs in under an hour on two cores, with the rest of a full run."""
    every = (*TRIO, *VARIANTS, *PEERS, "flower-inprocess")
    return [
        _burst(8, "45mb", every, rounds=7, few={"flower": 3}),
        _burst(8, "85mb", (*TRIO, *PEERS), few={"flower": 1}),
        _burst(8, "233mb", (*TRIO, "nvflare"), few={"nvflare": 2, "vanilla": 3}),
        _burst(20, "45mb", TRIO),
        _burst(20, "233mb", TRIO),
        _burst(60, "45mb", TRIO, few={"vanilla": 3}),
        _burst(100, "45mb", TRIO),
        _poisson(20, "45mb", rate=8.0, few={"vanilla": 3}),
        _diurnal(60, "45mb", day=8.0, few={"vanilla": 3}),
        *(_ablation(n, rounds=5, passes=1, cold=ANEW, few=LONG) for n in BURSTS),
    ]


def need(side: str, load: Load, nbytes: int) -> int:
    """Return the bytes of memory that a side may hold for a load of updates of ``nbytes``."""
    factor, besides = FACTORS["step" if side.startswith("step-") else side]
    return int(factor * max(load.sizes or (load.clients,)) * nbytes) + besides


@dataclass(frozen=True, slots=True)
class Choice:
    """Which sides play, whether at once, and why others do not."""

    sides: tuple[str, ...]
    together: bool
    left_out: Mapping[str, str]


def choose(workload: Workload, nbytes: int, available: int) -> Choice:
    """Return who can play within ``available`` bytes of memory; see the module."""
    allowed = int(SHARE * available)
    needs = {s: need(s, workload.load, nbytes) for s in workload.sides}
    left_out = {
        s: f"would hold up to {_gb(n)}, {_gb(allowed)} are to be had"
        for s, n in needs.items()
        if n > allowed
    }
    sides = tuple(s for s in workload.sides if s not in left_out)
    together = workload.together and sum(needs[s] for s in sides) <= allowed
    return Choice(sides, together, left_out)


def seconds(arrive: Sequence[float]) -> str:
    """Return an arrival pattern's length for people."""
    return f"{max(arrive, default=0.0):.1f} s"


def _gb(n: int) -> str:
    return f"{n / 1e9:.1f} GB"


def _burst(
    n: int,
    model: str,
    sides: tuple[str, ...],
    *,
    rounds: int = 5,
    few: Mapping[str, int] | None = None,
    cold: tuple[str, ...] = (),
) -> Workload:
    load = Load(f"burst-{n}x{model}", model, n, arrivals.burst(n))
    return Workload(
        load, sides, "all at once", "a whole round", rounds=rounds, few=few or {}, cold=cold
    )


def _poisson(
    n: int,
    model: str,
    rate: float,
    few: Mapping[str, int],
) -> Workload:
    times = arrivals.poisson(n, rate)
    load = Load(f"poisson-{n}x{model}", model, n, times)
    arrive = f"Poisson, {rate:g} a second, within {seconds(times)}"
    why = "a round of clients that are ready by chance"
    return Workload(load, TRIO, arrive, why, few=few)


def _diurnal(n: int, model: str, day: float, few: Mapping[str, int]) -> Workload:
    times = arrivals.diurnal(n, day)
    load = Load(f"diurnal-{n}x{model}", model, n, times)
    arrive = f"along a day of {day:g} s, four times as dense at noon as at night"
    return Workload(load, TRIO, arrive, "a round that takes a day's swing", few=few)


def _ablation(
    n: int,
    rounds: int,
    passes: int,
    steps: tuple[str, ...] = STEPS,
    cold: tuple[str, ...] = (),
    *,
    few: Mapping[str, int] | None = None,
) -> Workload:
    model = ABLATION["model"]
    load = Load(f"ablation-{n}x{model}", model, n, arrivals.burst(n))
    return Workload(
        load,
        steps,
        "all at once",
        f"what each policy buys, on {ABLATION['nodes']} nodes",
        rounds=rounds,
        together=False,
        passes=passes,
        few=few or {},
        cold=tuple(s for s in cold if s in steps),
        titles=strides(steps),
    )


def strides(steps: Sequence[str]) -> dict[str, str]:
    """Return by step what it has beyond the one before it in ``steps``, where that is several."""
    found = {}
    for before, step in itertools.pairwise(steps):
        between = STEPS[STEPS.index(before) + 1 : STEPS.index(step) + 1]
        if len(between) > 1:
            found[step] = " ".join(f"+{name.split('-', 2)[2]}" for name in between)
    return found
