"""An always-on aggregator: gRPC streams in, their weighted sum on to a parent or out as a model.

Why: this is how servers of today aggregate in a hierarchy: processes that stay, payload
by value in messages of 1 MB. It is meant to be a good one: raw bytes, memory kept from round to
round, each message added as it arrives, in whose thread it arrives (an event loop was tried
and is no faster). What it must not do is spare itself anything by shared memory: every
update and every partial sum crosses a socket.

A round that lost a stream midway is lost as a whole: what was added stays in the sum.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc

from bench.compare.serverful import protocol
from bench.compare.serverful.summing import F32, Sum
from bench.compare.wire import PATIENCE, Wire
from functions.aggregator.blas import best_kernel

THREADS = 128
"""At most; one a stream, made when needed."""


def prepare(given: bytes) -> tuple[bytes, int]:
    """Return the header every update must have, and the number of its float32."""
    return protocol.described(given)


def serve(wire: Wire, prepared: tuple[bytes, int]) -> None:
    """Serve until the wire ends; tell the port first."""
    aggregator = _Aggregator(wire, *prepared)
    service = protocol.ADD.split("/")[1]
    handlers = {
        protocol.ADD: grpc.stream_unary_rpc_method_handler(aggregator.add),
        protocol.OPEN: grpc.unary_unary_rpc_method_handler(aggregator.open),
        protocol.MODEL: grpc.unary_unary_rpc_method_handler(aggregator.answer),
    }
    by_name = {path.split("/")[2]: handler for path, handler in handlers.items()}
    server = grpc.server(ThreadPoolExecutor(THREADS), options=protocol.OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, by_name),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    wire.tell(port=port)
    wire.hear(None)  # nothing is ever said; it ends


class _Aggregator:
    def __init__(self, wire: Wire, header: bytes, elements: int) -> None:
        self._wire = wire
        self._header = header
        self._sum = Sum(elements, best_kernel())
        self._round = self._goal = self._arrived = 0
        self._parent = ""
        self._version, self._behind = 0, 0.0
        self._model: F32 | None = None
        self._changed = threading.Condition()  # guards all but the sum's floats
        self._channels: dict[str, grpc.Channel] = {}
        self._onward = ThreadPoolExecutor(1)

    def open(self, request: bytes, _: Any) -> bytes:
        order = json.loads(request)
        with self._changed:
            self._sum.clear()
            self._round, self._goal, self._parent = order["round"], order["goal"], order["parent"]
            self._arrived = 0
        if self._parent and self._parent not in self._channels:
            channel = grpc.insecure_channel(self._parent, options=protocol.OPTIONS)
            grpc.channel_ready_future(channel).result(timeout=PATIENCE)
            self._channels[self._parent] = channel
        return b""

    def add(self, messages: Iterator[bytes], context: Any) -> bytes:
        about = dict(context.invocation_metadata())
        samples = float(about[protocol.SAMPLES])
        try:
            number = self._add(messages, about, samples)
            summed = time.monotonic()
            with self._changed:
                self._sum.complete(number, samples)
                self._arrived += 1
                whole = self._arrived == self._goal
        except ValueError as e:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        if whole:
            task = self._onward.submit(self._pass_on if self._parent else self._publish)
            task.add_done_callback(self._passed_on)
        return protocol.DONE.pack(summed)

    def _add(self, messages: Iterator[bytes], about: dict[str, str], samples: float) -> int:
        """Add a stream to the sum and return how many messages of floats it had."""
        if int(about[protocol.ROUND]) != self._round:
            raise ValueError(f"round {self._round} is open, not {about[protocol.ROUND]}")
        weight = 1.0
        if about[protocol.KIND] == "update":
            weight = samples
            if next(messages, b"") != self._header:
                raise ValueError("these are not the tensors of this model")
        number = 0
        for piece in messages:
            self._sum.add(number, piece, weight)
            number += 1
        return number

    def _pass_on(self) -> None:
        about = (
            (protocol.ROUND, str(self._round)),
            (protocol.SAMPLES, repr(self._sum.samples)),
            (protocol.KIND, "partial"),
        )
        view = self._sum.view()
        messages = (
            bytes(view[at : at + protocol.PIECE]) for at in range(0, len(view), protocol.PIECE)
        )
        call = self._channels[self._parent].stream_unary(protocol.ADD)
        call(messages, timeout=PATIENCE, metadata=about)

    def _publish(self) -> None:
        with self._changed:
            self._behind = self._sum.samples
            self._model = self._sum.take_mean()
            self._version = self._round
            self._changed.notify_all()

    def _passed_on(self, task: Future[None]) -> None:
        if error := task.exception():
            self._wire.tell(error=f"round {self._round}: {type(error).__name__}: {error}")

    def answer(self, request: bytes, _: Any) -> bytes:
        order = json.loads(request)
        with self._changed:
            self._changed.wait_for(lambda: self._version >= order["version"], PATIENCE)
            if self._model is None:
                raise TimeoutError(f"there is no model {order['version']}")
            view = memoryview(self._model).cast("B")
            ranges = [view[at : at + length] for at, length in order["ranges"]]
            return b"".join([protocol.HEAD.pack(self._behind), *ranges])
