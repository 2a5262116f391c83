"""A job's rounds without HTTP, store or shared memory: events in, assertions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from functions.coordinator import losses
from functions.coordinator.effects import Effects, RoundRules
from functions.coordinator.records import Claim, Phase, Transfer
from functions.coordinator.rounds import RoundMachine
from functions.coordinator.selection import SelectionRules
from functions.coordinator.updates import ClaimRequest, CoverRefused, Place, Updates

NODE = "node-0"


class Scene:
    """A machine with a clock and a tiny store that applies what the effects say."""

    def __init__(self, rules: RoundRules, clients: Sequence[str] = ()) -> None:
        self.now = 1000.0
        self.rules = rules
        self.stored_claims: dict[int, Claim] = {}
        self.stored_transfers: dict[tuple[int, int], Transfer] = {}
        self.stored_clients: list[str] = []
        self.notices: list[int] = []
        self.rounds, effects = RoundMachine.first(rules, self.now, clients)
        self.stored_round = self.rounds.record
        self.updates = Updates(self.rounds)
        self.apply(effects)

    def apply(self, effects: Effects) -> None:
        change = effects.change
        for claim in change.claims:
            self.stored_claims[claim.serial] = Claim.from_json(claim.to_json())
        for serial in change.dropped:
            del self.stored_claims[serial]
        for t in change.transfers:
            self.stored_transfers[t.assignment, t.serial] = t
        self.stored_clients += change.clients
        if change.round is not None:
            self.stored_round = type(change.round).from_json(change.round.to_json())
        if change.forget_before:
            old = change.forget_before
            self.stored_claims = {
                s: c for s, c in self.stored_claims.items() if c.assignment >= old
            }
            self.stored_transfers = {k: t for k, t in self.stored_transfers.items() if k[0] >= old}
        self.notices.append(int(effects.notice))

    def restart(self) -> None:
        """Begin again from what was stored, as a successor does."""
        self.rounds = RoundMachine(
            self.rules,
            self.stored_round,
            claims=[Claim.from_json(c.to_json()) for c in self.stored_claims.values()],
            transfers=list(self.stored_transfers.values()),
            known=self.stored_clients,
        )
        self.updates = Updates(self.rounds)
        self.tick()

    @property
    def phase(self) -> Phase:
        return self.rounds.phase

    @property
    def assignment(self) -> int:
        return self.rounds.record.assignment

    def learn(self, *clients: str) -> None:
        self.apply(self.rounds.learn(clients, self.now))

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.apply(self.rounds.tick(self.now))

    def plan(self, epoch: int = 1, **changes: Any) -> None:
        plan = {"assignment": self.assignment, "epoch": epoch, "clients": {}} | changes
        self.apply(self.rounds.planned(plan, self.now))

    def claim(self, client: str, *, node: str = NODE, **changes: Any) -> tuple[Claim, bool]:
        asked = {"round": self.rounds.record.round, "num_samples": 10, "nbytes": 100} | changes
        claim, duplicate, effects = self.updates.claim(
            ClaimRequest(client=client, node=node, **asked)
        )
        self.apply(effects)
        return claim, duplicate

    def seal(self, serial: int, *, node: str = NODE, slot: int = 0, digest: str = "d") -> None:
        place = Place(node, slot or serial, 1)
        self.apply(self.updates.sealed(serial, place, digest, self.now))

    def count(
        self,
        client: str,
        *,
        node: str = NODE,
        slot: int = 1,
        digest: str = "d",
        assignment: int | None = None,
        **changes: Any,
    ) -> tuple[Claim, bool]:
        """Claim and count in one."""
        asked = {"round": self.rounds.record.round, "num_samples": 10, "nbytes": 100} | changes
        claim, duplicate, effects = self.updates.count(
            ClaimRequest(client=client, node=node, **asked),
            assignment or self.assignment,
            Place(node, slot, 1),
            digest,
            self.now,
        )
        self.apply(effects)
        return claim, duplicate

    def post(self, client: str, *, node: str = NODE) -> int:
        """Upload an update to the end; return its serial."""
        claim, duplicate = self.claim(client, node=node)
        assert not duplicate
        self.seal(claim.serial, node=node)
        return claim.serial

    def abort(self, serial: int) -> None:
        self.apply(self.updates.aborted(serial))

    def partial(self, *cover: int, assignment: int | None = None) -> bool:
        kept, effects = self.updates.partial(assignment or self.assignment, cover, self.now)
        self.apply(effects)
        return kept

    def transfer(
        self, serial: int, *cover: int, source: str = "node-1", target: str = NODE
    ) -> bool:
        ask = Transfer(serial, self.assignment, source, target, cover, 1.0)
        return self._lossy(lambda: self.updates.transfer(ask, self.now))

    def transferred(self, serial: int, *, node: str = NODE, slot: int = 9) -> None:
        place = Place(node, slot, 1)
        self._lossy(
            lambda: (
                True,
                self.updates.transferred(self.assignment, serial, place, self.now),
            )
        )

    def _lossy(self, event: Callable[[], tuple[bool, Effects]]) -> bool:
        try:
            answer, effects = event()
        except CoverRefused as e:
            self.apply(e.effects)
            raise
        self.apply(effects)
        return answer

    def lose(self, node: str) -> None:
        self.apply(losses.node_lost(self.rounds, node, self.now))

    def inventory(self, node: str, *serials: int) -> list[int]:
        unknown, effects = losses.inventory(self.rounds, node, serials, self.now)
        self.apply(effects)
        return unknown

    def commit(self) -> None:
        """Make the version, as the data thread does."""
        assert self.rounds.ready()
        self.rounds.committing()
        old = self.assignment
        following = self.rounds.following(self.now)
        effects = Effects()
        effects.change.round, effects.change.forget_before = following, old
        self.apply(effects)
        self.apply(self.rounds.committed(following, self.now))


def rules(
    per_round: int = 3,
    minimum: int = 2,
    *,
    rounds: int = 5,
    deadline: float | None = 60.0,
    over: float = 0.0,
    everyone: bool = False,
) -> RoundRules:
    selection = SelectionRules(per_round, minimum, over, everyone)
    return RoundRules(rounds, selection, deadline)


@pytest.fixture
def scene() -> Callable[..., Scene]:
    """Make a scene; ``clients`` of them known, the round open if there are enough."""

    def make(clients: int = 3, *, opened: bool = True, **changes: Any) -> Scene:
        made = Scene(rules(**changes), [f"c{i}" for i in range(clients)])
        if opened and made.rounds.record.goal:
            made.plan()
        return made

    return make
