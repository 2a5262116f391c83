"""Vanilla serverless: each payload through a broker into a function that may have to start.

Why: it is a chain of *hops*, and rounds that were played say what one costs (``bench.sim.fit``).
A hop brings one payload from whoever has it into a function's sum, stored and forwarded:

1. it is sent to the ingress and stored: half of what of the hop's time is not ``serial``;
2. it passes the broker: ``serial``, one payload after the other;
3. it is held until a function has room, and given to it: the other half. A function takes
   ``fan_in`` payloads at once.

How many functions there are is decided by the code that the played side uses
(``bench.compare.vanilla.scaler``, the stock autoscaler's formula): at once when something comes
while there is none, and every two seconds otherwise. A reply, which is a partial sum, makes
another hop to the top, whose function is one. On many nodes each has a broker of its own,
which flatters it beside a central one.

Not modelled: what :mod:`bench.sim.byref` names, a durable broker, TLS, a mesh; functions are not
taken away during a round.
"""

from __future__ import annotations

from collections import deque
from functools import partial

from bench.compare.vanilla import scaler
from bench.sim.engine import All, after
from bench.sim.planning import Tree
from bench.sim.world import Node, Play, World

TICK_SECONDS = 2.0
"""``tickInterval`` of the stock autoscaler."""
KEEP_SECONDS = 90.0
"""The stock stable window, and the grace period after it."""
COPIES = 2
"""Of a payload that is in a function: the broker keeps it until that has answered."""
Payload = tuple[int, int]
"""The sum it goes to (a seat), and the updates it stands for."""


class Broker:
    """What is stored and passes one after the other."""

    def __init__(self, play: Vanilla) -> None:
        self._play = play
        self._queue: deque[tuple[Payload, int]] = deque()
        self._busy = False

    def store(self, payload: Payload, number: int) -> None:
        """Queue so many equal payloads."""
        self._queue.append((payload, number))
        self._next()

    def _next(self) -> None:
        if self._busy or not self._queue:
            return
        self._busy = True
        payload, number = self._queue.popleft()
        if number > 1:
            self._queue.appendleft((payload, number - 1))
        self._play.pass_on(payload, partial(self._passed, payload))

    def _passed(self, payload: Payload) -> None:
        self._busy = False
        self._play.service(payload[0]).arrived(payload)
        self._next()


class Service:
    """The functions of a node, or of the top: how many there are, and what waits for them."""

    def __init__(self, world: World, node: Node, most: int) -> None:
        self._world = world
        self._node = node
        self._concurrency = world.scenario.share
        self._settings = scaler.Settings(target=float(self._concurrency), most=most)
        self._waiting: deque[Payload] = deque()
        self._requests = self._taken = self._ready = self._starting = 0
        self._ticking = False
        self.play: Vanilla | None = None
        self.reset()

    def reset(self) -> None:
        """Have no function and remember nothing."""
        self._ready = 0
        self._seen = scaler.Concurrency(self._settings.stable_window)
        self._state = scaler.State()
        self._idle_since = self._world.env.now

    def join(self, play: Vanilla) -> None:
        """Serve another round; after a long time without one no function is left."""
        idle = self._world.env.now - self._idle_since
        if self._world.scenario.from_zero or idle > KEEP_SECONDS:
            self.reset()
        self.play = play

    def arrived(self, payload: Payload) -> None:
        """A payload is there for a function."""
        self._count(1)
        self._waiting.append(payload)
        if not self._ready and not self._starting:
            self._scale()
        if not self._ticking:
            self._ticking = True
            now = self._world.env.now  # all autoscalers tick together, from the beginning of time
            after(self._world.env, TICK_SECONDS - now % TICK_SECONDS, self._tick)
        self._take()

    def answered(self) -> None:
        """A function has room again."""
        self._taken -= 1
        self._count(-1)
        self._take()

    def _count(self, by: int) -> None:
        self._requests += by
        self._idle_since = self._world.env.now
        self._seen.set(self._world.env.now, self._requests)

    def _tick(self) -> None:
        self._ticking = self._requests > 0
        if self._ticking:
            self._scale()
            after(self._world.env, TICK_SECONDS, self._tick)

    def _scale(self) -> None:
        now, settings = self._world.env.now, self._settings
        if settings.most and self._ready + self._starting >= settings.most:
            return
        seen = scaler.Seen(
            self._seen.average(now, settings.stable_window),
            self._seen.average(now, settings.panic_window),
            self._ready,
        )
        made = scaler.decide(now, seen, self._state, settings)
        self._state = made.state
        for _ in range(made.wanted - self._ready - self._starting):
            self._start()

    def _start(self) -> None:
        assert self.play is not None
        self._starting += 1
        self.play.created += 1
        cost = self._world.costs.vanilla
        self._world.work(
            self._node,
            cost.start,
            lambda: after(self._world.env, cost.start_wait, self._started),
        )

    def _started(self) -> None:
        self._starting -= 1
        self._ready += 1
        self._take()

    def _take(self) -> None:
        assert self.play is not None
        while self._waiting and self._taken < self._ready * self._concurrency:
            self._taken += 1
            self.play.deliver(self._waiting.popleft(), self)


class Vanilla(Play):
    """One round of vanilla serverless. ``services`` are those of the rounds before."""

    def __init__(self, world: World, tree: Tree, services: dict[int, Service]) -> None:
        super().__init__(world, tree)
        costs, scenario = world.costs.vanilla, world.scenario
        hop = costs.fixed + costs.per_byte * scenario.nbytes
        self._serial = costs.serial * hop
        self._half = (hop - self._serial) / 2
        self._send = costs.send_per_byte * scenario.nbytes
        self._finish = costs.finish + costs.finish_per_byte * scenario.nbytes
        self._covered = [0] * len(tree.seats)
        self._entry = {
            n: [[i, tree.seats[i].own] for i in reversed(seats)]
            for n, seats in tree.entry().items()
        }
        self._brokers: dict[int, Broker] = {}
        self._services = services
        for service in services.values():
            service.join(self)

    def begin(self) -> None:
        """Nothing starts before something comes."""

    def arrive(self, node: Node, updates: int) -> None:
        """Clients begin to send."""
        entry = self._entry[node.number]
        coming: list[tuple[Payload, int]] = []
        for _ in range(updates):
            if not coming or coming[-1][0][0] != entry[-1][0]:
                coming.append(((entry[-1][0], 1), 0))
            coming[-1] = (coming[-1][0], coming[-1][1] + 1)
            entry[-1][1] -= 1
            if not entry[-1][1]:
                entry.pop()
        self._store(node, coming, updates, None)

    def _store(
        self, node: Node, coming: list[tuple[Payload, int]], number: int, sender: Node | None
    ) -> None:
        """Take payloads that begin to come at one moment, and so are stored at one."""
        world = self.world
        remote = node.line is not None and node is not sender
        world.hold(node, number)

        def stored() -> None:
            if sender is not None:
                world.hold(sender, -1)
            for payload, equal in coming:
                self._broker(node).store(payload, equal)

        done = All(1 + (sender is not None) + (remote or sender is None), stored)
        if sender is not None:
            world.work(sender, self._send, done)
        if remote:
            world.receive(node, done, number=number, client=sender is None)
        elif sender is None:
            world.send_here(node, done, number)
        world.work(node, self._half, done, number)

    def _broker(self, node: Node) -> Broker:
        number = 0 if self.world.scenario.one_machine else node.number
        if number not in self._brokers:
            self._brokers[number] = Broker(self)
        return self._brokers[number]

    def service(self, seat: int) -> Service:
        """Return the service of a sum: its node's, or the top's own."""
        top = self.tree.seats[seat].parent is None and len(self.tree.seats) > 1
        key = -1 if top else self.tree.seats[seat].node
        found = self._services.get(key)
        if found is None:
            node = self.world.nodes[self.tree.seats[seat].node]
            found = self._services[key] = Service(self.world, node, most=int(top))
            found.join(self)
        return found

    def pass_on(self, payload: Payload, done: partial[None]) -> None:
        """Have the broker work for a payload."""
        self.world.work(self.world.nodes[self.tree.seats[payload[0]].node], self._serial, done)

    def deliver(self, payload: Payload, service: Service) -> None:
        """Give a payload to a function that has room."""
        node = self.world.nodes[self.tree.seats[payload[0]].node]
        self.world.hold(node, COPIES - 1)
        self.world.work(node, self._half, partial(self._added, payload, node, service))

    def _added(self, payload: Payload, node: Node, service: Service) -> None:
        number, covers = payload
        seat = self.tree.seats[number]
        self.world.hold(node, (not self._covered[number]) - COPIES)
        self._covered[number] += covers
        service.answered()
        if self._covered[number] < seat.covers:
            return
        if seat.parent is not None:
            to = self.world.nodes[self.tree.seats[seat.parent].node]
            self._store(to, [((seat.parent, seat.covers), 1)], 1, node)
        else:
            self.world.work(node, self._finish, self._made)

    def _made(self) -> None:
        self.world.hold(self.world.nodes[self.tree.seats[0].node], -1)
        self.finish(self._covered[0])
