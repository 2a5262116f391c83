"""The ledger of one attempt: which update is whose, and where its data lies.

Why: exactly-once has one authority. An update counts if its claim is sealed
and is its client's present claim; a partial counts if all of its cover does
and none of it was counted before. It must not know phases, time or HTTP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from functions.coordinator.records import Claim, ClaimState, Transfer


class ClaimBook:
    """Claims by serial and by client; ``held`` are serials in partials the coordinator has."""

    def __init__(self, claims: Iterable[Claim] = (), transfers: Iterable[Transfer] = ()) -> None:
        self.by_serial: dict[int, Claim] = {}
        self.by_client: dict[str, Claim] = {}
        self.transfers: dict[int, Transfer] = {t.serial: t for t in transfers}
        self.held: set[int] = set()
        self.accepted = 0
        for claim in claims:
            self.by_serial[claim.serial] = claim
            self.by_client[claim.client] = claim
            self.accepted += claim.state is ClaimState.SEALED

    def add(self, claim: Claim) -> Claim | None:
        """Make ``claim`` its client's present one; return the one it replaces."""
        old = self.by_client.get(claim.client)
        if old is not None:
            self.remove(old)
        self.by_serial[claim.serial] = claim
        self.by_client[claim.client] = claim
        return old

    def remove(self, claim: Claim) -> None:
        """Forget a claim; data that turns up under its serial does not count."""
        del self.by_serial[claim.serial]
        del self.by_client[claim.client]
        self.accepted -= claim.state is ClaimState.SEALED

    def accept(self, claim: Claim) -> None:
        """Count an update: its object is known to be sealed."""
        self.accepted += claim.state is not ClaimState.SEALED
        claim.state = ClaimState.SEALED

    def lose(self, claim: Claim) -> None:
        """Stop counting an accepted update: its data is gone, its client may post again."""
        self.accepted -= claim.state is ClaimState.SEALED
        claim.state = ClaimState.LOST

    def sealed(self) -> list[Claim]:
        """Return the accepted claims, by serial."""
        return [c for c in self.by_serial.values() if c.state is ClaimState.SEALED]

    def lost(self) -> list[str]:
        """Return the clients whose present claim lost its data."""
        return [c.client for c in self.by_client.values() if c.state is ClaimState.LOST]

    def complete(self) -> bool:
        """Whether the held partials are exactly the accepted updates."""
        return self.accepted > 0 and len(self.held) == self.accepted

    def fits(self, cover: Sequence[int], at: str | None = None) -> bool:
        """Whether a partial may be counted.

        Every serial is a present claim that no held partial contains and, if
        ``at`` is given, whose data lies on that node. A claim that is not
        sealed yet fits too: the partial proves that its object was sealed.
        """
        if len(set(cover)) != len(cover):
            return False
        for serial in cover:
            claim = self.by_serial.get(serial)
            if claim is None or serial in self.held or (at is not None and claim.at != at):
                return False
        return bool(cover)

    def accept_cover(self, cover: Sequence[int]) -> list[Claim]:
        """Count every update of a cover that fits; return the claims that changed."""
        changed = [c for s in cover if (c := self.by_serial[s]).state is not ClaimState.SEALED]
        for claim in changed:
            self.accept(claim)
        return changed

    def lose_cover(self, cover: Sequence[int], at: str | None = None) -> list[Claim]:
        """Lose the accepted updates of a partial that cannot be counted; return them.

        Those that a held partial contains, or that lie on another node than
        ``at``, are safe elsewhere.
        """
        found = (self.by_serial.get(s) for s in dict.fromkeys(cover))
        return self._lose(c for c in found if c is not None and (at is None or c.at == at))

    def lose_node(self, node: str, present: frozenset[int] = frozenset()) -> list[Claim]:
        """Lose the accepted updates on ``node`` that are not among ``present``; return them."""
        return self._lose(
            c for c in self.by_serial.values() if c.at == node and c.serial not in present
        )

    def send_back(self, node: str, gone: Sequence[Claim]) -> list[Transfer]:
        """Undo the arrival at ``node`` of updates that were lost there; return the transfers.

        A sender keeps its copy until the receiver answers it, so it may bring them again.
        """
        lost = {c.serial for c in gone}
        undone = [
            replace(t, sealed=False)
            for t in self.transfers.values()
            if t.sealed and t.target == node and not lost.isdisjoint(t.cover)
        ]
        for transfer in undone:
            self.transfers[transfer.serial] = transfer
            for serial in lost.intersection(transfer.cover):
                self.by_serial[serial].at = transfer.source
        return undone

    def _lose(self, claims: Iterable[Claim]) -> list[Claim]:
        gone = [c for c in claims if c.state is ClaimState.SEALED and c.serial not in self.held]
        for claim in gone:
            self.lose(claim)
        return gone
