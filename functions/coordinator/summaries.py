"""A committed round in one line of history.

Why: the figures people plot come from here: how many updates were accepted and
aggregated, how long it took, what the clients measured. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from functions.coordinator.records import Claim, RoundRecord, RoundSummary, VersionRecord


def summarize(
    record: RoundRecord, claims: Sequence[Claim], version: VersionRecord, summed: float
) -> RoundSummary:
    """Return the summary of a round whose accepted updates, ``claims``, made ``version``.

    ``summed`` is when the last sum in it was sealed, unix seconds.
    """
    now = version.created
    return RoundSummary(
        round=record.round,
        version=version.version,
        attempts=record.attempt,
        accepted=len(claims),
        aggregated=len(version.cover),
        samples=version.weight,
        opened=record.opened or now,
        closed=record.closed or now,
        committed=now,
        summed=summed,
        metrics=mean_metrics(claims),
    )


def mean_metrics(claims: Sequence[Claim]) -> dict[str, float]:
    """Return each finite numeric metric, averaged by sample count over the clients that sent it."""
    totals: dict[str, float] = {}
    weights: dict[str, int] = {}
    for claim in claims:
        for name, value in (claim.metrics or {}).items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if number and isfinite(value):
                totals[name] = totals.get(name, 0.0) + value * claim.num_samples
                weights[name] = weights.get(name, 0) + claim.num_samples
    return {name: total / weights[name] for name, total in totals.items() if weights[name]}
