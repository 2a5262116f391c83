"""What becomes of a round when a node, or a gateway's memory of it, is gone.

Why: an acknowledged update may disappear with its node; then its client is
asked again, never silently left out, and whoever comes first counts: the client, or
another node that still has the partial it sent. It must not do I/O and must not read
a clock.
"""

from __future__ import annotations

from collections.abc import Iterable

from functions.coordinator.effects import Effects, Notice
from functions.coordinator.records import ClaimState, Phase
from functions.coordinator.rounds import RoundMachine


def node_lost(rounds: RoundMachine, node: str, now: float) -> Effects:
    """A node is gone with everything on it.

    Accepted updates that lie there are lost, unless the coordinator holds a
    partial with them; uploads under way are forgotten.
    """
    effects = _missing(rounds, node, frozenset(), now)
    if rounds.phase in (Phase.OPEN, Phase.CLOSING):
        for claim in list(rounds.book.by_serial.values()):
            if claim.node == node and claim.state is ClaimState.CLAIMED:
                rounds.book.remove(claim)
                effects.change.dropped.append(claim.serial)
    return effects


def inventory(
    rounds: RoundMachine, node: str, present: Iterable[int], now: float
) -> tuple[list[int], Effects]:
    """A gateway came back and lists the serials in its pool.

    Accepted updates it does not have are lost; an upload that it has was sealed,
    and counts while the round is open. Claims without an update yet stand: they
    may be the gateway's new ones, and one that was cut off with the old gateway
    is replaced when its client posts again. Returned are serials in its pool that nobody waits for.
    """
    have = frozenset(present)
    known = rounds.book.by_serial
    witnessed = [
        c
        for s in have
        if (c := known.get(s)) is not None and c.at == node and c.state is ClaimState.CLAIMED
    ]
    if rounds.phase is not Phase.OPEN:
        witnessed = []
    for claim in witnessed:
        rounds.book.accept(claim)
    effects = _missing(rounds, node, have, now)
    if witnessed:
        effects.change.claims += witnessed
        effects.notice = Notice.NOW
        rounds.close_if_full(now, effects)
    return sorted(have - known.keys()), effects


def _missing(rounds: RoundMachine, node: str, present: frozenset[int], now: float) -> Effects:
    effects = Effects()
    if rounds.phase not in (Phase.OPEN, Phase.CLOSING):
        return effects
    gone = rounds.book.lose_node(node, present)
    effects.change.transfers += rounds.book.send_back(node, gone)
    rounds.lose(gone, now, effects)
    return effects
