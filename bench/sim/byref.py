"""LIFL's way of an update: gateway, coordinator, leaf, onward by reference, commit.

Why: what queues where decides a round's time, so each part that serves one after the other is
one here too:

* a node's gateway is one process and reads fast uploads in turns (``functions/gateway/turns.py``);
  from clients that are slower than it all are read at once and what it does for each comes when
  the last byte does;
* the coordinator is the one writer of all nodes and takes an update after the other;
* an aggregator adds one object at a time on one processor, the last of its goal on all (its
  team); what a leaf has covered is freed when it seals;
* a partial for another node is read by that node's gateway, in turn with uploads;
* an aggregator seals early (compacts) every sixteen inputs, or sooner where a full pool holds
  uploads back, which costs a pass.

Not modelled: polls and downloads of clients, refusals and retries, deaths, memory bandwidth
that more processors than were measured would share, the disk shared by several jobs.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from bench.sim.engine import All, Done, after
from bench.sim.planning import Seat, Tree
from bench.sim.world import Node, Play, World
from functions.aggregator.machine import COMPACT_INPUTS, MOST_INPUTS
from functions.aggregator.team import MOST, SHARE

POOL_SHARE = 4
SPARE = 2


class Adder:
    """An aggregator at work."""

    def __init__(self, play: ByReference, seat: Seat) -> None:
        self.seat = seat
        self.node = play.world.nodes[seat.node]
        self._play = play
        self._queue: deque[int] = deque()  # what each object covers; 0: a sum of its own
        self._lying = 0
        self._ready = not seat.start
        self._busy = False
        self._covered = self._inputs = 0

    def start(self) -> None:
        """Start its process."""
        play = self._play
        cost = play.world.costs.aggregator
        play.world.work(
            self.node, cost.start, lambda: after(play.env, cost.start_wait, self._started)
        )

    def _started(self) -> None:
        self._ready = True
        self.kick()

    def offer(self, covers: int) -> None:
        """An object that stands for so many updates lies there for it."""
        self._queue.append(covers)
        self._lying += covers
        self.kick()

    def kick(self) -> None:
        """Add the next object, if there is one and it is time."""
        if self._busy or not self._ready or not self._queue:
            return
        play, whole = self._play, self.seat.covers
        if not play.eager and self._covered + self._lying < whole and not play.scarce(self.node):
            return
        self._busy = True
        covers = self._queue.popleft()
        self._lying -= covers
        if not self._inputs:
            play.world.hold(self.node, 1)  # its output
        threads = play.team if self._covered + covers == whole else 1
        play.world.work_wide(self.node, play.addition, threads, partial(self._added, covers))

    def _added(self, covers: int) -> None:
        self._busy = False
        self._covered += covers
        self._inputs += 1
        if self._covered < self.seat.covers:
            self.compact()
            self.kick()
            return
        self._free()
        self._play.onward(self)
        self._play.room(self.node)

    def compact(self) -> None:
        """Seal what there is, if it is much or slots are scarce: the next sum begins with it."""
        several = self._inputs >= COMPACT_INPUTS and self._play.scarce(self.node)
        many = self._inputs >= MOST_INPUTS and self._play.eager
        if self._busy or not (several or many):
            return
        self._free()
        self._queue.appendleft(0)
        self._play.room(self.node)

    def _free(self) -> None:
        self._play.world.hold(self.node, -self._inputs)
        self._inputs = 0


class Gate:
    """A node's gateway: what waits to be read, and what is read now."""

    def __init__(self, play: ByReference, node: Node, entry: list[Adder], adders: int) -> None:
        self._play = play
        self.node = node
        self._entry = deque((adder, adder.seat.own) for adder in entry)
        scenario = play.world.scenario
        affordable = int(scenario.memory / POOL_SHARE / scenario.nbytes)
        self.slots = max(affordable, (COMPACT_INPUTS + SPARE) * (adders + 2))
        self._reading = False
        self._partials: deque[tuple[Done, Node]] = deque()
        self._updates = 0
        self._left = 0

    def come(self, updates: int) -> None:
        """So many clients begin to send."""
        line = self.node.line
        if line is None or self._play.fast:
            self._updates += updates
            self.pump()
            return
        self._play.world.receive(self.node, partial(self._in, updates), number=updates, client=True)

    def _in(self, updates: int) -> None:
        self._updates += updates
        self.pump()

    def bring(self, sender: Node, then: Done) -> None:
        """Another node's gateway has an object; ``then`` is called when it is here."""
        self._partials.append((then, sender))
        self.pump()

    def pump(self) -> None:
        """Read the next object, unless one is being read or there is no room."""
        if self._reading:
            return
        if self._partials:
            self._reading = True
            self._play.world.hold(self.node, 1)
            self._read_partial(*self._partials.popleft())
        elif self._updates and self.node.held < self.slots:
            self._reading = True
            self._updates -= 1
            self._play.world.hold(self.node, 1)
            self._read_update()
        elif self._updates:
            self._play.squeeze(self.node)

    def _read_update(self) -> None:
        play = self._play
        here = self.node.line is None
        self._left = 2 if here or play.fast else 1
        play.world.work(self.node, play.ingest, self._part)
        if here:
            play.world.send_here(self.node, self._part)
        elif play.fast:
            after(play.env, play.nbytes / play.fastest, self._part)

    def _part(self) -> None:
        self._left -= 1
        if not self._left:
            self._reading = False
            self._play.claim(self)
            self.pump()

    def _read_partial(self, then: Done, sender: Node) -> None:
        play = self._play
        network = self.node.line is not None

        def read() -> None:
            play.world.hold(sender, -1)
            play.room(sender)
            self._reading = False
            then()
            self.pump()

        done = All(3 if network else 2, read)
        play.world.work(sender, play.forward, done)
        play.world.work(self.node, play.accept, done)
        if network:
            after(play.env, play.nbytes / play.world.scenario.line + play.world.scenario.trip, done)

    def counted(self) -> None:
        """An update counts: it is sealed, and the first leaf that lacks one is told."""
        adder, left = self._entry[0]
        if left == 1:
            self._entry.popleft()
        else:
            self._entry[0] = (adder, left - 1)
        adder.offer(1)


class ByReference(Play):
    """One round of LIFL."""

    def __init__(self, world: World, tree: Tree) -> None:
        super().__init__(world, tree)
        costs, scenario = world.costs.lifl, world.scenario
        self.nbytes = scenario.nbytes
        self.eager = tree.eager
        self.ingest = costs.ingest + costs.ingest_per_byte * self.nbytes
        self.addition = costs.handoff + world.costs.aggregator.sum_per_byte * self.nbytes
        self.forward = costs.forward + costs.forward_per_byte * self.nbytes
        self.accept = costs.accept + costs.accept_per_byte * self.nbytes
        self.team = max(1, min(MOST, scenario.cores, self.nbytes // (4 * SHARE)))
        self.fastest = min(scenario.line, scenario.client_rate)
        self.fast = scenario.client_rate >= min(scenario.line, self.nbytes / self.ingest)
        """Whether a client sends as fast as it is read: uploads then take turns."""
        entry = tree.entry()
        self._adders = [Adder(self, s) for s in tree.seats]
        self._by_node: dict[int, list[Adder]] = {0: []}
        for adder in self._adders:
            self._by_node.setdefault(adder.node.number, []).append(adder)
        self._gates = {
            n: Gate(self, world.nodes[n], [self._adders[i] for i in entry.get(n, ())], len(adders))
            for n, adders in self._by_node.items()
        }
        self._claims: deque[Gate] = deque()
        self._writing = False

    def begin(self) -> None:
        """Start aggregators; make the plan routes; what else a round takes."""
        costs = self.world.costs.lifl
        self.world.work(self.world.home, costs.round, _nothing)
        for number, adders in self._by_node.items():
            if adders:
                self.world.work(self.world.nodes[number], costs.apply, _nothing)
        for adder in self._adders:
            if adder.seat.start:
                adder.start()

    def arrive(self, node: Node, updates: int) -> None:
        """Clients begin to send to the node's gateway."""
        self._gates[node.number].come(updates)

    def claim(self, gate: Gate) -> None:
        """Have the coordinator count an update."""
        self._claims.append(gate)
        self._write()

    def _write(self) -> None:
        if not self._writing and self._claims:
            self._writing = True
            self.world.work(self.world.home, self.world.costs.lifl.claim, self._written)

    def _written(self) -> None:
        self._writing = False
        gate = self._claims.popleft()
        if gate.node.line is None or gate.node is self.world.home:
            gate.counted()
        else:
            after(self.env, self.world.scenario.trip, gate.counted)
        self._write()

    def scarce(self, node: Node) -> bool:
        """Whether a node's pool is nearly full."""
        return node.held + SPARE >= self._gates[node.number].slots

    def room(self, node: Node) -> None:
        """Objects of a node were freed."""
        self._gates[node.number].pump()

    def squeeze(self, node: Node) -> None:
        """Nothing has room on a node: have its aggregators give back what they can."""
        for adder in self._by_node[node.number]:
            adder.compact()
            adder.kick()

    def onward(self, adder: Adder) -> None:
        """Send a sealed sum to whoever is next: parent, or coordinator."""
        home, covers = self.world.home, adder.seat.covers
        if adder.seat.parent is not None:
            parent = self._adders[adder.seat.parent]
            node, then = parent.node, partial(parent.offer, covers)
        else:
            node, then = home, partial(self._commit, covers)
        if node is adder.node:
            then()
        else:
            self._gates[node.number].bring(adder.node, then)

    def _commit(self, covers: int) -> None:
        costs = self.world.costs.lifl
        wait = costs.commit_wait + costs.commit_wait_per_byte * self.nbytes

        def committed() -> None:
            self.world.hold(self.world.home, -1)
            self.finish(covers)

        self.world.work(
            self.world.home,
            costs.commit + costs.commit_per_byte * self.nbytes,
            lambda: after(self.env, wait, committed),
        )


def _nothing() -> None:
    """Nobody waits for it."""
