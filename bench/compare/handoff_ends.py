"""The processes between which a partial sum is handed over, and how each way is gone.

Why: :mod:`bench.compare.handoff` says what is measured; the two functions' work is here: a
producer that has its last input and hands the result on, and the next aggregator on LIFL's
path (by value it is :mod:`bench.compare.vanilla.adder`). On that path they do what
:mod:`functions.aggregator.machine` has aggregators do. It must not judge what it sees.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import select
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil

from bench.compare import mean
from bench.compare.api import Group
from bench.compare.vanilla import event, network, web
from bench.compare.vanilla.broker import APP, Broker
from bench.compare.vanilla.replica import Replica
from bench.compare.vanilla.stream import Stream
from ebpf.agent.kernel_switch import KernelSwitch
from functions.aggregator.blas import F32, Kernel, best_kernel
from functions.aggregator.team import Team, processors
from lifl.dataplane import open_channel
from lifl.dataplane.api import Channel
from lifl.store import Pool, PoolGeometry, Seal, SlotEntry, SlotKind, SlotRef
from lifl.wire import Descriptor, Kind, Opcode, RouteType, pages_of

PRODUCER, CONSUMER, DOMAIN = 1, 2, 1
OBJECTS = {"lifl": 2, "lifl_two_passes": 1}
"""How many objects are handed over: the output and the last input beside it, or the output alone.
The descriptors' assignment says which."""
WEIGHTS = (0.75, 0.25)
"""Of the producer's two inputs; the consumer weighs by 1, as it gets a weighted sum."""
MEMORY = 6
"""Redis may hold so many payloads: twice what one hop needs."""
HEADER_BYTES = 4096
MP = mp.get_context("fork")


def hurried() -> Kernel:
    """Return the kernel with which an aggregator adds what completes a sum: somebody waits."""
    return Team(best_kernel(), processors())


def inputs(elements: int) -> tuple[F32, F32]:
    """Return the producer's inputs."""
    block = np.random.default_rng(1).standard_normal(1 << 16, np.float32)
    return np.resize(block, elements), np.resize(block[::-1], elements)


def output(of: Sequence[F32], elements: int) -> F32:
    """Return what the result is in some places."""
    at = mean.places(elements)
    first, last = (np.float32(w) * x[at] for w, x in zip(WEIGHTS, of, strict=True))
    result: F32 = first + last
    return result


class Ends:
    """The processes' ends that the measuring process holds."""

    def __init__(self, producer: Connection, consumer: Connection, broker: Broker) -> None:
        self._producer, self._consumer = producer, consumer
        self._dispatcher = broker.dispatcher
        self.versions = broker.versions

    def prepare(self, way: str) -> None:
        """Have the first input added."""
        self._producer.send(("prepare", way))
        self._before = _hear(self._producer)["before"]

    def hand_over(self, way: str) -> dict[str, Any]:
        """Have the last one added and the result handed over; return what both saw."""
        self._producer.send(("hand over", way))
        told = _hear(self._producer) | {"before": self._before}
        if way in OBJECTS:
            return told | _hear(self._consumer)
        headers = self._dispatcher.hear()["headers"] if way == "vanilla" else told["headers"]
        return told | {
            "viewed": float(headers["lifl-viewed"]),
            "added": float(headers["lifl-added"]),
            "elements": np.frombuffer(bytes.fromhex(headers["lifl-elements"]), np.float32),
        }


def _hear(pipe: Connection) -> dict[str, Any]:
    told: dict[str, Any] = pipe.recv()
    if "error" in told:
        raise RuntimeError(told["error"])
    return told


@contextlib.contextmanager
def opened(group: Group, elements: int) -> Iterator[Ends]:
    """Start all three paths in the group."""
    nbytes = 4 * elements
    with contextlib.ExitStack() as stack:
        most = min(MEMORY * nbytes + (64 << 20), psutil.virtual_memory().available // 2)
        broker = stack.enter_context(Broker(group, [event.TOP], most, app=APP, tell=True))
        with group.adopt():
            direct = Replica("direct", 0, broker.log, APP)
        stack.callback(direct.wait)
        stack.callback(direct.end)
        direct.await_ready()
        lifl = stack.enter_context(_lifl(nbytes))
        pipes = []
        for serve in (
            lambda pipe: _produce(pipe, elements, lifl, broker.port, direct),
            lambda pipe: _consume(pipe, elements, lifl),
        ):
            with group.adopt():
                pipe, process = _fork(serve)
            stack.callback(_end, pipe, process)
            _hear(pipe)
            pipes.append(pipe)
        producer, consumer = pipes
        yield Ends(producer, consumer, broker)


def _fork(serve: Callable[[Connection], None]) -> tuple[Connection, Any]:
    mine, theirs = MP.Pipe()

    def child() -> None:
        mine.close()
        try:
            serve(theirs)
        except EOFError:
            pass
        except BaseException as e:
            theirs.send({"error": f"{type(e).__name__}: {e}"})
        finally:
            os._exit(0)

    process = MP.Process(target=child, daemon=True)
    process.start()
    theirs.close()
    return mine, process


def _end(pipe: Connection, process: Any) -> None:
    process.terminate()
    process.join()
    process.close()
    pipe.close()


@dataclass(frozen=True, slots=True)
class _Lifl:
    """A node's pool, and the two functions' ends of the in-kernel route."""

    pool: Pool
    sender: Channel
    receiver: Channel


@contextlib.contextmanager
def _lifl(nbytes: int) -> Iterator[_Lifl]:
    geometry = PoolGeometry(2, -(-nbytes // 4096) * 4096, 4096)
    with contextlib.ExitStack() as stack:
        pool = Pool.create("handoff", geometry, prefault_slots=2)
        stack.callback(pool.close)
        switch = KernelSwitch.open()
        stack.callback(switch.close)
        ends = [
            open_channel("ebpf", endpoint, switch.plug(endpoint, DOMAIN, Kind.AGGREGATOR))
            for endpoint in (PRODUCER, CONSUMER)
        ]
        for end in ends:
            stack.callback(end.close)
        switch.set_route(PRODUCER, RouteType.ENDPOINT, CONSUMER)
        yield _Lifl(pool, *ends)


def _produce(pipe: Connection, elements: int, lifl: _Lifl, ingress: int, direct: Replica) -> None:
    """Be the producer: two inputs, and an output that is a slot or memory of its own."""
    kernel = hurried()
    first, last = inputs(elements)
    own: F32 = np.ones(elements, np.float32)
    for slot in (0, 1):
        np.frombuffer(lifl.pool.floats(slot), np.float32)[:] = 1.0  # mapped here from now on
    update = _upload(lifl.pool, last)
    ref = SlotRef(0, 0)
    output = own
    pipe.send({"ready": True})
    while True:
        do, way = pipe.recv()
        if do == "prepare":
            output = own
            if way in OBJECTS:
                ref = lifl.pool.reserve(SlotKind.PARTIAL, PRODUCER, OBJECTS[way])
                output = lifl.pool.floats(ref.slot)[:elements]
            began = time.monotonic()
            kernel.axpby(WEIGHTS[0], first, 0.0, output)
            pipe.send({"before": time.monotonic() - began})
            continue
        told: dict[str, Any] = {"started": time.monotonic()}
        if way == "lifl":
            lifl.pool.take(update, PRODUCER)
        else:
            kernel.axpby(WEIGHTS[1], last, 1.0, output)
        told["produced"] = time.monotonic()
        if way in OBJECTS:
            lifl.pool.seal(ref, PRODUCER, Seal(1, WEIGHTS[0], HEADER_BYTES, 4 * elements))
            if way == "lifl":
                lifl.pool.untake(update, PRODUCER)
            pages, objects = pages_of(4 * elements), OBJECTS[way]
            for slot, generation in (ref, update)[:objects]:
                d = Descriptor(Opcode.OBJECT, slot, generation, objects, pages)
                lifl.sender.send(d)
        else:
            connection = network.connect(ingress) if way == "vanilla" else None
            told["headers"] = _post(
                connection or network.connect(direct.sidecar.port, direct.sidecar.namespace),
                output.data.cast("B"),
            )
        pipe.send(told)


def _upload(pool: Pool, last: F32) -> SlotRef:
    """Put the producer's last input where its gateway would have."""
    ref = pool.reserve(SlotKind.UPDATE, PRODUCER, OBJECTS["lifl"])
    pool.floats(ref.slot)[: len(last)] = last
    pool.seal(ref, PRODUCER, Seal(2, WEIGHTS[1], HEADER_BYTES, 4 * len(last)))
    return ref


def _post(sock: Any, payload: memoryview) -> dict[str, str]:
    """Send a partial sum and return the answer's headers."""
    about = {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/producer",
        "type": event.PARTIAL,
        "subject": str(event.Subject(1, 1, 0, 0)),
    }
    with Stream(sock) as stream:
        stream.sendall(web.request("/", len(payload), event.to_headers(about)))
        stream.sendall(payload)
        status, headers = web.read_response(stream)
    if status != 202:
        raise RuntimeError(f"a partial sum was answered with {status}")
    return headers


def _consume(pipe: Connection, elements: int, lifl: _Lifl) -> None:
    """Be the next aggregator on LIFL's path."""
    kernel = hurried()
    total: F32 = np.zeros(elements, np.float32)
    for slot in (0, 1):
        total += lifl.pool.floats(slot)[:elements] * np.float32(0)  # all mapped here from now on
    where = mean.places(elements)
    poll = select.poll()
    poll.register(lifl.receiver.fileno(), select.POLLIN)
    pipe.send({"ready": True})
    while True:
        wanted, found, began = 1, 0, 0.0
        while found < wanted:
            poll.poll()
            taken: list[tuple[SlotRef, SlotEntry]] = []
            while descriptors := lifl.receiver.recv(0):
                for d in descriptors:
                    wanted, ref = d.assignment, SlotRef(d.slot, d.generation)
                    taken.append((ref, lifl.pool.take(ref, CONSUMER)))
            began = began or time.monotonic()
            kernel.add(
                [(_weight(e), lifl.pool.floats(r.slot)[:elements]) for r, e in taken], 1.0, total
            )
            added = time.monotonic()
            for ref, entry in taken:
                update = entry.kind is SlotKind.UPDATE  # the producer's, for the next time
                (lifl.pool.untake if update else lifl.pool.release)(ref, CONSUMER)
            found += len(taken)
        pipe.send({"viewed": began, "added": added, "elements": total[where]})


def _weight(entry: SlotEntry) -> float:
    return entry.weight if entry.kind is SlotKind.UPDATE else 1.0
