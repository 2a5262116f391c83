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
import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import harness
from bench.clients import Clients, head
from bench.figures import Figure, at_least, at_most, ratios
from bench.sizes import BYTES

DEFINITION = Path(__file__).with_name("ablation.json")
WITHIN = 1.05
"""A step may cost so much more than the one before: five per cent."""
SPARE_SLOTS = 48
"""Beyond a slot an update: two outputs for each of eleven aggregators of a node, and more."""
PATIENCE = 120.0
_STARTED = re.compile(r"^.*: started \S+ on \S+$", re.MULTILINE)


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
    with _environment(settings), harness.platform(nodes=plan["nodes"]) as platform:
        platform.await_nodes(plan["nodes"])
        for burst in plan["bursts"]:
            job = harness.Job(
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
    step: Step, platform: harness.Platform, job: harness.Job, clients: Clients, rounds: int
) -> None:
    """Run a round to warm up, pools touched and clients known, then those that count."""
    burst = len(job.clients)
    began = _started(platform)
    opened, cpu = _opened(platform, job, 0), _cpu(platform)
    for i in range(rounds + 1):
        clients.start(_requests(job, opened))
        job.check(clients.wait())
        _committed(platform, job, opened["round"], last=i == rounds)
        row = job.history()[-1]
        if i:
            step.seconds[burst].append(row["committed"] - row["opened"])
            step.cpu[burst].append(_cpu(platform) - cpu)
        cpu = _cpu(platform)
        if row["aggregated"] != burst:
            raise RuntimeError(f"{row['aggregated']} of {burst} updates were aggregated")
        if i < rounds:
            opened = _opened(platform, job, opened["round"])
    step.created[burst].append(_started(platform) - began)


def _opened(platform: harness.Platform, job: harness.Job, after: int) -> dict[str, Any]:
    """Wait for a round later than ``after`` that every client has a node in; return its view."""
    if not after:
        job.ready()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        view = job.view()
        opened = view["round"] > after and view["phase"] == "open"
        # where one node sums all, nobody has to be told which
        if opened and (len(view["clients"]) == len(job.clients) or len(_nodes(view)) == 1):
            return view
        time.sleep(0.005)
    raise TimeoutError(f"round {after + 1} did not open within {PATIENCE:.0f} s")


def _committed(platform: harness.Platform, job: harness.Job, round_: int, *, last: bool) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        view = job.view()
        if view["round"] > round_ or (last and view["phase"] == "done"):
            return
        time.sleep(0.005)
    raise TimeoutError(f"round {round_} was not committed within {PATIENCE:.0f} s")


def _requests(job: harness.Job, view: Mapping[str, Any]) -> list[tuple[str, int, bytes]]:
    """Return what each client sends, and where its node's gateway is."""
    path = f"/v1/jobs/{job.name}/rounds/{view['round']}/updates"
    first = min(_nodes(view))
    found = []
    for i, client in enumerate(job.clients):
        url = urlsplit(view["upload"][view["clients"].get(client, first)])
        host, port = url.hostname or "127.0.0.1", url.port or 80
        found.append((host, port, head(host, port, path, job.nbytes, job.headers(i))))
    return found


def _nodes(view: Mapping[str, Any]) -> set[str]:
    """Return the nodes of the round's plan."""
    return {role["node"] for role in view["plan"]["roles"]}


def _started(platform: harness.Platform) -> int:
    """Return how many aggregators the controller has started so far, by its log."""
    return len(_STARTED.findall(platform.paths.log("controller").read_text()))


def _cpu(platform: harness.Platform) -> float:
    """Return CPU seconds of all processes, with those that ended (10 ms a tick)."""
    return platform.cpu() + platform.cpu_of_ended()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _all(samples: Mapping[int, Sequence[float]]) -> list[float]:
    return [value for burst in sorted(samples) for value in samples[burst]]


def _medians(samples: Mapping[int, Sequence[float]]) -> dict[str, float]:
    return {str(b): round(1e3 * statistics.median(v), 1) for b, v in sorted(samples.items())}


def _means(samples: Mapping[int, Sequence[float]]) -> dict[str, float]:
    return {str(b): round(statistics.mean(v), 1) for b, v in sorted(samples.items())}
