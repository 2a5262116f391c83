"""What becomes of single updates and partials in a round.

Why apart from the phases: these are the events of the hot path. Two rules keep
"exactly once" true when messages get lost:

* A partial is the best witness: an update in its cover was sealed, even if its
  gateway died before it could say so, and then counts.
* What cannot be counted is never silently missing: if a partial has to be
  refused, the accepted updates in it are lost, and their clients are asked again.

It must not do I/O and must not read a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from functions.coordinator.effects import Effects, Notice
from functions.coordinator.problems import Refused
from functions.coordinator.records import Claim, ClaimState, Phase, Transfer
from functions.coordinator.rounds import RoundMachine
from functions.coordinator.state import Change

SERIAL_BLOCK = 1024
"""Serials are set aside in blocks, so that a successor never gives one out again."""


class ClaimRequest(NamedTuple):
    """A gateway asks whether it may take an update; ``round`` is what the client said."""

    round: int
    client: str
    node: str
    num_samples: int
    nbytes: int
    update_type: str | None = None
    base_version: int | None = None
    metrics: dict[str, Any] | None = None


class Place(NamedTuple):
    """Where an object lies."""

    node: str
    slot: int
    generation: int


class CoverRefused(Refused):
    """A partial that must be thrown away; ``effects`` are to be applied all the same."""

    def __init__(self, effects: Effects, detail: str) -> None:
        super().__init__(409, "cover-refused", detail, where="cover")
        self.effects = effects


class Updates:
    """The intake of one job's rounds; not thread-safe."""

    def __init__(self, rounds: RoundMachine) -> None:
        self._rounds = rounds
        self._next_serial = rounds.record.serials

    def claim(self, ask: ClaimRequest) -> tuple[Claim, bool, Effects]:
        """Decide on an update before its body is read: its claim, whether a duplicate, effects.

        A client's second upload replaces a first one that has not ended.

        Raises
        ------
        Refused
            409 ``wrong-round``, ``round-not-open``, ``round-closed``,
            ``not-selected``, ``wrong-base-version`` or ``job-over``; 422
            ``wrong-update-type``.
        """
        standing = self._standing(ask)
        if standing is not None:
            return standing, True, Effects()
        self._check(ask)
        rounds, effects = self._rounds, Effects()
        if self._next_serial >= rounds.record.serials:
            rounds.record = replace(rounds.record, serials=self._next_serial + SERIAL_BLOCK)
            effects.change.round = rounds.record
        claim = Claim(
            serial=self._next_serial,
            assignment=rounds.record.assignment,
            client=ask.client,
            node=ask.node,
            at=ask.node,
            num_samples=ask.num_samples,
            nbytes=ask.nbytes,
            metrics=ask.metrics,
        )
        self._next_serial += 1
        replaced = rounds.book.add(claim)
        effects.change.claims.append(claim)
        if replaced is not None:
            effects.change.dropped.append(replaced.serial)
        return claim, False, effects

    def count(
        self, ask: ClaimRequest, assignment: int, place: Place, digest: str, now: float
    ) -> tuple[Claim, bool, Effects]:
        """Claim and count an update whose object is ready: its claim, whether a duplicate, effects.

        The same question about the same object may be put again.

        Raises
        ------
        Refused
            as :meth:`claim`, and 409 ``wrong-assignment`` if the round began anew since the
            object's slot was reserved: the object must be thrown away.
        """
        standing = self._standing(ask)
        if standing is not None:
            there = Place(standing.node, standing.slot, standing.generation)
            return standing, (there, standing.digest) != (place, digest), Effects()
        self._check(ask)
        if assignment != self._rounds.record.assignment:
            raise Refused(
                409,
                "wrong-assignment",
                "the round began anew; send the update again",
            )
        claim, _, effects = self.claim(ask)
        effects.then(self.sealed(claim.serial, place, digest, now))
        return claim, False, effects

    def _standing(self, ask: ClaimRequest) -> Claim | None:
        """Return the accepted claim that makes this upload a duplicate."""
        rounds = self._rounds
        if ask.round == rounds.record.round:
            claim = rounds.book.by_client.get(ask.client)
        elif ask.round == rounds.record.round - 1:
            claim = rounds.previous.get(ask.client)
        else:
            claim = None
        return claim if claim is not None and claim.state is ClaimState.SEALED else None

    def _check(self, ask: ClaimRequest) -> None:
        record = self._rounds.record
        if record.phase.over:
            raise Refused(409, "job-over", f"the job is {record.phase}; it takes no more updates")
        if ask.round != record.round:
            when = "is over" if ask.round < record.round else "has not begun"
            raise Refused(
                409,
                "wrong-round",
                f"round {ask.round} {when}; the job is in round {record.round}",
                where="round",
            )
        if record.phase is Phase.PLANNING:
            raise Refused(
                409, "round-not-open", f"round {record.round} is not open yet; poll again"
            )
        if record.phase is not Phase.OPEN:
            raise Refused(409, "round-closed", f"round {record.round} takes no more updates")
        if record.selected is not None and ask.client not in self._rounds.chosen:
            raise Refused(
                409, "not-selected", f"round {record.round} did not select this client; poll again"
            )
        version, wanted = self._rounds.version, self._rounds.rules.update_type
        if ask.base_version is not None and ask.base_version != version:
            raise Refused(
                409,
                "wrong-base-version",
                f"the update starts from version {ask.base_version}; "
                f"round {record.round} trains version {version}",
                where="LIFL-Base-Version",
            )
        if ask.update_type is not None and ask.update_type != wanted:
            raise Refused(
                422,
                "wrong-update-type",
                f"the job takes {wanted}, not {ask.update_type}",
                where="LIFL-Update-Type",
            )

    def sealed(self, serial: int, place: Place, digest: str | None, now: float) -> Effects:
        """An update's object is sealed; once this is written the client may be told 202.

        Raises
        ------
        Refused
            409 ``claim-gone``, ``claim-sealed`` or ``round-closed``: the object
            must be thrown away.
        """
        claim = self._rounds.book.by_serial.get(serial)
        if claim is None or claim.state is ClaimState.LOST:
            raise Refused(
                409,
                "claim-gone",
                f"claim {serial} no longer stands: the round is over or began anew, or the client "
                "began another upload; poll again",
            )
        if claim.state is ClaimState.SEALED:
            if claim.digest is not None and place != (claim.node, claim.slot, claim.generation):
                raise Refused(409, "claim-sealed", f"claim {serial} is sealed by another object")
            if claim.digest is not None:
                return Effects()
        elif self._rounds.phase is not Phase.OPEN:
            raise Refused(
                409, "round-closed", f"round {self._rounds.record.round} closed before the seal"
            )
        claim.node, claim.slot, claim.generation = place
        claim.digest = digest
        self._rounds.book.accept(claim)
        effects = Effects(Change(claims=[claim]), Notice.SOON)
        self._rounds.close_if_full(now, effects)
        return effects

    def aborted(self, serial: int) -> Effects:
        """An upload failed: the client may begin anew."""
        claim = self._rounds.book.by_serial.get(serial)
        if claim is None or claim.state is not ClaimState.CLAIMED:
            return Effects()
        self._rounds.book.remove(claim)
        return Effects(Change(dropped=[serial]))

    def partial(self, assignment: int, cover: Sequence[int], now: float) -> tuple[bool, Effects]:
        """A partial has reached the coordinator: keep it (True) or release it."""
        rounds = self._rounds
        if assignment != rounds.record.assignment or not self._open():
            return False, Effects()
        if not rounds.book.fits(cover):
            return False, self._lose(cover, None, now)
        effects = self._witness(cover, now)
        rounds.book.held.update(cover)
        rounds.progressed(now)
        return True, effects

    def transfer(self, ask: Transfer, now: float) -> tuple[bool, Effects]:
        """A node wants to send a partial on; True if it has arrived already.

        Raises
        ------
        Refused
            409 ``wrong-assignment`` or ``cover-refused``: the partial must be
            thrown away.
        """
        book = self._rounds.book
        known = book.transfers.get(ask.serial)
        same = (ask.assignment, ask.cover)
        if known is not None and known.sealed and (known.assignment, known.cover) == same:
            return True, Effects()
        self._check_transfer(ask, now)
        effects = self._witness(ask.cover, now)
        book.transfers[ask.serial] = ask
        effects.change.transfers.append(ask)
        return False, effects

    def transferred(self, assignment: int, serial: int, place: Place, now: float) -> Effects:
        """A partial is sealed on the node it was sent to: its updates are there now.

        Raises
        ------
        Refused
            409 ``wrong-assignment``, ``transfer-gone``, ``transfer-sealed`` or
            ``cover-refused``: the copy must be thrown away.
        """
        book = self._rounds.book
        known = book.transfers.get(serial)
        if known is None or known.assignment != assignment or known.target != place.node:
            raise Refused(
                409, "transfer-gone", f"no transfer {serial} to {place.node} is under way"
            )
        if known.sealed:
            if (place.slot, place.generation) == (known.slot, known.generation):
                return Effects()
            raise Refused(409, "transfer-sealed", f"transfer {serial} has arrived already")
        self._check_transfer(known, now)
        effects = self._witness(known.cover, now)
        moved = [book.by_serial[s] for s in known.cover]
        for claim in moved:
            claim.at = place.node
        arrived = replace(known, sealed=True, slot=place.slot, generation=place.generation)
        book.transfers[serial] = arrived
        effects.change.claims = moved
        effects.change.transfers.append(arrived)
        self._rounds.progressed(now)
        return effects

    def _check_transfer(self, ask: Transfer, now: float) -> None:
        record = self._rounds.record
        if ask.assignment != record.assignment or not self._open():
            raise Refused(
                409,
                "wrong-assignment",
                f"the job is at assignment {record.assignment} ({record.phase})",
            )
        if not self._rounds.book.fits(ask.cover, ask.source):
            raise CoverRefused(
                self._lose(ask.cover, ask.source, now),
                "the partial holds an update that is counted elsewhere, or not at all",
            )

    def _open(self) -> bool:
        return self._rounds.phase in (Phase.OPEN, Phase.CLOSING)

    def _witness(self, cover: Sequence[int], now: float) -> Effects:
        changed = self._rounds.book.accept_cover(cover)
        effects = Effects(Change(claims=changed))
        if changed:
            effects.notice = Notice.SOON
            self._rounds.close_if_full(now, effects)
        return effects

    def _lose(self, cover: Sequence[int], at: str | None, now: float) -> Effects:
        effects = Effects()
        self._rounds.lose(self._rounds.book.lose_cover(cover, at), now, effects)
        return effects
