"""The overhead audit of whole sides: rounds that are counted in the kernel, and never timed.

Why: counting every system call and packet slows the counted down, so it has rounds of its own
after the ones that are timed. It must not know any side.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.compare.api import Load, System
from bench.compare.audit import Audit
from bench.compare.counts import ByHand, table
from bench.compare.player import OpenGroup
from bench.compare.sides import Absent, Maker

ROUNDS = 2
FAN_IN = 2
FLAT = ("lifl", "serverful-flat", "flower", "nvflare")
"""Sides of one aggregator for all clients; LIFL's may be more, so it counts too few hops."""
BY_HAND: Mapping[str, ByHand] = {
    "lifl": ByHand(
        0, 0, 0, "functions/gateway/receive.py and functions/aggregator: recv_into the pool, summed"
    ),
}


def audit(
    load: Load,
    document: bytes,
    makers: Mapping[str, Maker],
    names: Sequence[str],
    open_group: OpenGroup,
    *,
    rounds: int = ROUNDS,
) -> dict[str, dict[str, Any]]:
    """Return each side's table of so many rounds, or ``missing``: why there is none."""
    found = {}
    for name in names:
        try:
            found[name] = _audit(load, document, makers[name], name, open_group, rounds=rounds)
        except Absent as e:
            found[name] = {"title": name, "missing": f"not run: {e}"}
        except Exception as e:
            found[name] = {"title": name, "missing": f"{type(e).__name__}: {e}"}
    return found


def hops(name: str, updates: int) -> int:
    """Return how many hand-overs a round has: uploads, and partials in a tree of fan-in two."""
    if name in FLAT:
        return updates
    leaves = math.ceil(updates / FAN_IN)
    return updates + (leaves if leaves > 1 else 0)


def _audit(
    load: Load, document: bytes, maker: Maker, name: str, open_group: OpenGroup, *, rounds: int
) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(open_group(f"audit-{name}"))
        system: System = stack.enter_context(maker(load, group, document))
        system.play()
        with Audit(group) as counting:  # type: ignore[arg-type]  # it says so if it cannot
            before = counting.counts()
            for _ in range(rounds):
                system.play()
            counts = counting.counts().since(before)
            missing = dict(counting.missing)
        rows = table(
            counts,
            payload=len(document),
            updates=rounds * load.clients,
            hops=rounds * hops(name, load.clients),
            by_hand=getattr(system, "by_hand", BY_HAND.get(name)),
        )
        return {
            "title": system.title,
            "workload": load.name,
            "rounds": rounds,
            "rows": [asdict(r) for r in rows],
            "cannot": missing,
        }
