"""The round machine: one job's rounds, decided from events.

    planning → open ⇄ closing → committing → planning of the next round → … → done
        ↑________|________|  too few updates: a new attempt under a new assignment

Why pure: every way a round can go wrong can be tried in microseconds. A method
takes an event and the time, changes the machine and returns :class:`Effects`:
what to write, whom to tell. Single updates and partials are
:mod:`functions.coordinator.updates`. It must not do I/O and must not read a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from functions.coordinator.claims import ClaimBook
from functions.coordinator.effects import Effects, Notice, RoundRules
from functions.coordinator.problems import Refused
from functions.coordinator.records import Claim, ClaimState, Phase, RoundRecord, Transfer
from functions.coordinator.selection import choose, complete, enough
from functions.coordinator.state import Change


class RoundMachine:
    """One job's present attempt; not thread-safe."""

    def __init__(
        self,
        rules: RoundRules,
        record: RoundRecord,
        *,
        claims: Iterable[Claim] = (),
        transfers: Iterable[Transfer] = (),
        known: Iterable[str] = (),
    ) -> None:
        claims = list(claims)
        self.rules = rules
        self.record = record
        self.book = ClaimBook(
            (c for c in claims if c.assignment == record.assignment),
            (t for t in transfers if t.assignment == record.assignment),
        )
        self.previous = {
            c.client: c
            for c in claims
            if c.assignment < record.assignment and c.state is ClaimState.SEALED
        }
        self.known = dict.fromkeys(known)
        self.chosen = frozenset(record.selected or ())
        self._enough_since: float | None = None
        self._progress: float | None = None

    @classmethod
    def first(
        cls, rules: RoundRules, now: float, known: Iterable[str] = ()
    ) -> tuple[RoundMachine, Effects]:
        """Return the machine of a new job, planning round 1."""
        record = RoundRecord(1, 1, 1, Phase.PLANNING, since=now, serials=1)
        machine = cls(rules, record, known=known)
        machine._enter(machine._chosen_record(record), now)
        return machine, Effects(
            Change(clients=list(machine.known), round=machine.record), Notice.NOW
        )

    @property
    def phase(self) -> Phase:
        """Return where the round is."""
        return self.record.phase

    @property
    def version(self) -> int:
        """Return the present model's version: what this round's clients train on."""
        done = self.record.phase is Phase.DONE
        return self.record.round if done else self.record.round - 1

    def lost(self) -> list[str]:
        """Return the clients that should post again, sorted."""
        earlier = (c for c in self.record.lost if c not in self.book.by_client)
        return sorted({*self.book.lost(), *earlier})

    def due(self) -> float | None:
        """Return when :meth:`tick` next has something to do, if nothing happens before."""
        record = self.record
        if record.phase is Phase.PLANNING and not record.goal and self._enough_since is not None:
            return self._enough_since + self.rules.grace
        if record.phase is Phase.OPEN:
            return record.deadline
        if record.phase is Phase.CLOSING and self._progress is not None:
            return self._progress + self.rules.stall
        return None

    # -- clients and time -----------------------------------------------------

    def learn(self, clients: Iterable[str], now: float) -> Effects:
        """Clients were seen polling."""
        new = [c for c in dict.fromkeys(clients) if c not in self.known]
        if not new:
            return Effects()
        self.known.update(dict.fromkeys(new))
        effects = Effects(Change(clients=new))
        if self.rules.selection.everyone and not self.phase.over:
            effects.notice = Notice.SOON  # placement wants to know them
        if self.phase is Phase.PLANNING and not self.record.goal:
            self._select(now, effects)
        return effects

    def tick(self, now: float) -> Effects:
        """Time has passed."""
        effects = Effects()
        record = self.record
        if record.phase is Phase.PLANNING and not record.goal:
            self._select(now, effects)
        elif record.phase is Phase.OPEN and record.deadline is not None and now >= record.deadline:
            if self.book.accepted >= self._minimum():
                self._close(now, effects)
            else:
                self._retry(now, effects)
        elif record.phase is Phase.CLOSING:
            if self._progress is None:
                self._progress = now
            if now >= self._progress + self.rules.stall and not self.book.complete():
                self._retry(now, effects)
        return effects

    def planned(self, plan: Mapping[str, Any], now: float) -> Effects:
        """The controller has decided how the attempt is summed: the round opens.

        A later plan of the same assignment must have a higher epoch.
        """
        record = self.record
        if record.phase.over or record.phase is Phase.COMMITTING:
            raise Refused(409, "round-closed", f"the job is {record.phase}; it takes no plan")
        if plan["assignment"] != record.assignment:
            raise Refused(
                409,
                "wrong-assignment",
                f"the job is at assignment {record.assignment}, not {plan['assignment']}",
            )
        if not record.goal:
            raise Refused(409, "no-clients-yet", "clients are not selected yet; watch on")
        if record.plan is not None and plan["epoch"] <= record.plan["epoch"]:
            if plan == record.plan:
                return Effects()
            raise Refused(409, "stale-plan", f"epoch {record.plan['epoch']} is already in force")
        if record.phase is Phase.PLANNING:
            record = replace(record, phase=Phase.OPEN, opened=now, deadline=self._deadline(now))
        self.record = replace(record, plan=dict(plan))
        return Effects(Change(round=self.record), Notice.NOW)

    # -- what updates do to the round -----------------------------------------

    def close_if_full(self, now: float, effects: Effects) -> None:
        """Close the round if it has all the updates it wants."""
        if self.record.phase is Phase.OPEN and self.book.accepted >= self.record.goal:
            self._close(now, effects)
            if self.book.accepted >= len(self.chosen):
                effects.notice = Notice.SHORTLY

    def progressed(self, now: float) -> None:
        """A partial came in: the round is not stalled."""
        self._progress = now

    def lose(self, gone: list[Claim], now: float, effects: Effects) -> None:
        """Accepted updates have lost their data: their clients are asked again.

        A closed round goes on with what is left, if that is enough; else it opens
        again, for those that are lost. What is accepted stays accepted.
        """
        if not gone:
            return
        effects.change.claims += gone
        effects.notice = Notice.NOW
        if self.record.phase is Phase.CLOSING and self.book.accepted < self._minimum():
            self.record = replace(
                self.record, phase=Phase.OPEN, deadline=self._deadline(now), closed=None
            )
            effects.change.round = self.record

    def forget_held(self) -> None:
        """The coordinator's leases were taken back: its partials will come again."""
        self.book.held.clear()

    # -- committing -----------------------------------------------------------

    def ready(self) -> bool:
        """Whether the new model can be made: closed, and every update is in a held partial."""
        return self.record.phase is Phase.CLOSING and self.book.complete()

    def committing(self) -> None:
        """The new model is being made; no event changes the round until that has ended."""
        self.record = replace(self.record, phase=Phase.COMMITTING)

    def not_committed(self) -> None:
        """The new model could not be made; it will be tried again."""
        self.record = replace(self.record, phase=Phase.CLOSING)

    def following(self, now: float) -> RoundRecord:
        """Return what comes after this round, to be written together with the version."""
        record = self.record
        if self.last:
            return replace(record, phase=Phase.DONE, deadline=None)
        return self._next(now)

    def committed(self, following: RoundRecord, now: float) -> Effects:
        """The version is durable; ``following`` was written with it."""
        self.previous = {c.client: c for c in self.book.sealed()}
        if following.phase is not Phase.DONE:
            self.book = ClaimBook()
        self._enter(following, now)
        return Effects(notice=Notice.NOW)

    @property
    def last(self) -> bool:
        """Whether no round follows this one."""
        return self.record.round >= self.rules.rounds

    def skipping(self, now: float) -> RoundRecord:
        """Return what comes instead of this round, whose model is lost: the next one, in any case.

        The number of this one's version is then another's: of what is trained on instead.
        """
        if self.phase.over:
            return replace(self.record, round=self.record.round + 1)
        return self._next(now)

    def skipped(self, following: RoundRecord, now: float) -> Effects:
        """The model before is in force again; ``following`` was written with that."""
        self.previous, self.book = {}, ClaimBook()
        self._enter(following, now)
        return Effects(notice=Notice.NOW)

    def end(self, phase: Phase) -> Effects:
        """The job is stopped or has failed."""
        self.record = replace(self.record, phase=phase, deadline=None)
        self.book.held.clear()
        return Effects(Change(round=self.record), Notice.NOW)

    # -- inside ---------------------------------------------------------------

    def _minimum(self) -> int:
        return min(self.rules.selection.minimum, self.record.goal)

    def _deadline(self, opened: float) -> float | None:
        return None if self.rules.deadline is None else opened + self.rules.deadline

    def _close(self, now: float, effects: Effects) -> None:
        self.record = replace(self.record, phase=Phase.CLOSING, closed=now)
        self._progress = now
        effects.change.round = self.record
        effects.notice = Notice.NOW

    def _retry(self, now: float, effects: Effects) -> None:
        """Give the attempt up; everybody who posted is asked again, under a new assignment."""
        record, book = self.record, self.book
        posted = {*record.lost, *book.by_client}
        answered = {c.client for c in book.by_client.values() if c.state is not ClaimState.CLAIMED}
        following = RoundRecord(
            round=record.round,
            attempt=record.attempt + 1,
            assignment=record.assignment + 1,
            phase=Phase.PLANNING,
            since=now,
            serials=record.serials,
            lost=tuple(sorted(posted)),
            silent=tuple(c for c in record.selected or () if c not in answered),
        )
        self.book = ClaimBook()
        self._enter(self._chosen_record(following), now)
        effects.change.claims.clear()
        effects.change.dropped.clear()
        effects.change.forget_before = following.assignment
        effects.change.round = self.record
        effects.notice = Notice.NOW

    def _next(self, now: float) -> RoundRecord:
        record = self.record
        return self._chosen_record(
            RoundRecord(
                round=record.round + 1,
                attempt=1,
                assignment=record.assignment + 1,
                phase=Phase.PLANNING,
                since=now,
                serials=record.serials,
            )
        )

    def _enter(self, record: RoundRecord, now: float) -> None:
        self.record = record
        self.chosen = frozenset(record.selected or ())
        self._progress = None
        self._enough_since = now if enough(self.rules.selection, len(self.known)) else None

    def _select(self, now: float, effects: Effects) -> None:
        """Select clients if enough are known, and all that are wanted or the grace is over."""
        if not enough(self.rules.selection, len(self.known)):
            return
        if self._enough_since is None:
            self._enough_since = now
        waited = now >= self._enough_since + self.rules.grace
        record = self._chosen_record(self.record, waited=waited)
        if record.goal:
            self.record = record
            self.chosen = frozenset(record.selected or ())
            effects.change.round = record
            effects.notice = Notice.NOW

    def _chosen_record(self, record: RoundRecord, *, waited: bool = False) -> RoundRecord:
        rules = self.rules.selection
        if not (complete(rules, len(self.known)) or waited):
            return record
        chosen = choose(
            rules,
            list(self.known),
            round_number=record.round,
            attempt=record.attempt,
            silent=record.silent,
        )
        return replace(record, selected=chosen.clients, goal=chosen.goal)
