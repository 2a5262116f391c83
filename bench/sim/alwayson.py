"""The always-on side's way of an update: a stream by value into an aggregator that is there.

Why: it is a chain of *hops*, and rounds that were played say what one costs (``bench.sim.fit``).
A hop brings one payload from whoever has it into an aggregator's sum; sender and receiver
work at the same time, message by message, and all streams of an aggregator go on at once. Of
the receiver's processor time the share ``serial`` is one at a time for all streams of an
aggregator (it is one interpreter). Streams that begin at one moment for one aggregator end at
one moment, and are simulated as one.

Not modelled: what :mod:`bench.sim.byref` names, a checkpoint (there is none), TLS.
"""

from __future__ import annotations

from functools import partial

from bench.sim.engine import All, Turn
from bench.sim.planning import Seat, Tree
from bench.sim.world import Node, Play, World


class Server:
    """An aggregator that is always there; its sum is held from round to round."""

    __slots__ = ("covered", "node", "seat", "turn")

    def __init__(self, node: Node, seat: Seat) -> None:
        self.node = node
        self.seat = seat
        self.turn = Turn()
        self.covered = 0


class AlwaysOn(Play):
    """One round of always-on aggregators."""

    def __init__(self, world: World, tree: Tree) -> None:
        super().__init__(world, tree)
        nbytes, costs = world.scenario.nbytes, world.costs.serverful
        hop = costs.fixed + costs.per_byte * nbytes
        self._serial = costs.serial * hop
        self._rest = hop - self._serial
        self._send = costs.send_per_byte * nbytes
        self._finish = costs.finish + costs.finish_per_byte * nbytes
        self._servers = [Server(world.nodes[seat.node], seat) for seat in tree.seats]
        self._entry = {
            n: [[i, tree.seats[i].own] for i in reversed(seats)]
            for n, seats in tree.entry().items()
        }

    def begin(self) -> None:
        """Their sums take memory, whether anything comes or not."""
        for server in self._servers:
            self.world.hold(server.node, 1)

    def arrive(self, node: Node, updates: int) -> None:
        """Clients begin to send, each to the first leaf of the node that lacks one."""
        entry = self._entry[node.number]
        while updates:
            i, lacks = entry[-1]
            number = min(updates, lacks)
            updates -= number
            entry[-1][1] -= number
            if not entry[-1][1]:
                entry.pop()
            self._hop(self._servers[i], number, number, None)

    def _hop(self, to: Server, streams: int, covers: int, sender: Node | None) -> None:
        world, node = self.world, to.node
        remote = node.line is not None and node is not sender
        parties = 2 + (self._serial > 0) + (remote and sender is not None)
        done = All(parties, partial(self._added, to, covers))

        def over() -> None:
            to.turn.leave()
            done()

        if sender is not None:
            world.work(sender, self._send, done)
        if remote:
            world.receive(node, done, number=streams, client=sender is None)
        elif sender is None:
            node.cores.run(self._send, done, streams)  # a client's: not the side's time
        world.work(node, self._rest, done, streams)
        if self._serial:
            to.turn.enter(lambda: world.work(node, streams * self._serial, over))

    def _added(self, to: Server, covers: int) -> None:
        to.covered += covers
        if to.covered < to.seat.covers:
            return
        if to.seat.parent is not None:
            self._hop(self._servers[to.seat.parent], 1, to.covered, to.node)
        else:
            self.world.work(to.node, self._finish, self._made)

    def _made(self) -> None:
        for server in self._servers:
            self.world.hold(server.node, -1)
        self.finish(self._servers[0].covered)
