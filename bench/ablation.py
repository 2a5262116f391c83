"""What each policy buys: base, +placement, +hierarchy, +reuse, +eager, on five local nodes.

``bench/ablation.json`` defines base and steps. Every step is a platform of its own, with the same
data plane; a round is a burst of ready-made updates, sent as soon as the round is open. Its time
is the coordinator's, from opening the round until the new model is committed: starting aggregators
is in it where they are started. CPU is that of all processes of the platform, those that
ended too, from one commit to the next. Steps are run in turn, several times over, so that a slow
minute of the machine does not fall on one of them alone.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import driver, harness
from bench.clients import Clients
from bench.figures import Figure, at_least, at_most, ratios
from bench.sizes import BYTES

DEFINITION = Path(__file__).with_name("ablation.json")
WITHIN = 1.05
"""A step may cost so much more than the one before: five per cent."""
SPARE_SLOTS = 48
"""Beyond a slot an update: two outputs for each of eleven aggregators of a node, and more."""


@dataclass(slots=True)
class Step:
    """What one step measured: by burst, each round's seconds and CPU seconds, and starts."""

    seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    created: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))


def run() -> list[Figure]:
    """Return the whole's speed-up and share of aggregators, and each step over the one before."""
    plan = json.loads(DEFINITION.read_text())
    steps: dict[str, Step] = {s["name"]: Step() for s in plan["steps"]}
    document = harness.model_document(BYTES[plan["model"]])
    with Clients(max(plan["bursts"]), document) as clients:
        for _ in range(plan["passes"]):
            switches: dict[str, str] = {}
            for step in plan["steps"]:
                switches |= step["set"]
                _measure(steps[step["name"]], switches, plan, document, clients)
    names = list(steps)
    first, last = steps[names[0]], steps[names[-1]]
    return [
        Figure(
            "ablation_speedup",
            "ratio",
            ratios(_all(first.seconds), _all(last.seconds)),
            at_least(2.0),
            {"ms": {n: _medians(s.seconds) for n, s in steps.items()}},
        ),
        Figure(
            "ablation_aggregators_ratio",
            "ratio",
            ratios(_all(last.created), _all(first.created)),
            at_most(0.5),
            {
                "rounds": plan["rounds"],
                "created": {n: _means(s.created) for n, s in steps.items()},
            },
        ),
        *_steps(steps, names),
    ]


def _steps(steps: Mapping[str, Step], names: Sequence[str]) -> Iterator[Figure]:
    for before, name in itertools.pairwise(names):
        for what in ("seconds", "cpu"):
            now, then = getattr(steps[name], what), getattr(steps[before], what)
            yield Figure(
                f"ablation_{name}_{what}",
                "ratio",
                ratios(_all(now), _all(then)),
                at_most(WITHIN),
                {"over": before, "ms": _medians(now)},
            )


def _measure(
    step: Step,
    switches: Mapping[str, str],
    plan: Mapping[str, Any],
    document: bytes,
    clients: Clients,
) -> None:
    settings = {
        **switches,
        "LIFL_NODE_CAPACITY": str(plan["node_capacity"]),
        "LIFL_KEEP_SECONDS": str(plan["keep_seconds"]),
    }
    with harness.environment(settings), harness.platform(nodes=plan["nodes"]) as platform:
        platform.await_nodes(plan["nodes"])
        for burst in plan["bursts"]:
            job = driver.Job(
                platform,
                f"burst-{burst}",
                document,
                clients=burst,
                fan_in=plan["fan_in"],
                slots=burst + SPARE_SLOTS,
                rounds=plan["rounds"] + 1,
            )
            try:
                _rounds(step, platform, job, clients, plan["rounds"])
            finally:
                job.http.close()


def _rounds(
    step: Step, platform: harness.Platform, job: driver.Job, clients: Clients, rounds: int
) -> None:
    """Run a round to warm up, pools touched and clients known, then those that count."""
    burst = len(job.clients)
    began = platform.started()
    job.ready()
    opened, cpu = job.opened(), _cpu(platform)
    for i in range(rounds + 1):
        clients.start(job.placed_requests(opened))
        job.check(clients.wait())
        row = job.committed(opened["round"])
        if i:
            step.seconds[burst].append(row["committed"] - row["opened"])
            step.cpu[burst].append(_cpu(platform) - cpu)
        cpu = _cpu(platform)
        if row["aggregated"] != burst:
            raise RuntimeError(f"{row['aggregated']} of {burst} updates were aggregated")
        if i < rounds:
            opened = job.opened(after=opened["round"])
    step.created[burst].append(platform.started() - began)


def _cpu(platform: harness.Platform) -> float:
    """Return CPU seconds of all processes, with those that ended (10 ms a tick)."""
    return platform.cpu() + platform.cpu_of_ended()


def _all(samples: Mapping[int, Sequence[float]]) -> list[float]:
    return [value for burst in sorted(samples) for value in samples[burst]]


def _medians(samples: Mapping[int, Sequence[float]]) -> dict[str, float]:
    return {str(b): round(1e3 * statistics.median(v), 1) for b, v in sorted(samples.items())}


def _means(samples: Mapping[int, Sequence[float]]) -> dict[str, float]:
    return {str(b): round(statistics.mean(v), 1) for b, v in sorted(samples.items())}
