"""A client of the always-on aggregators: holds its messages ready and sends when told.

Why: what a client costs must not hide what the server does, so it makes nothing up: the bytes
are cut into messages before the first round and one channel is kept open. It sends by the
same gRPC that such clients use. One of them sends no update but opens rounds and asks for models,
so that the comparison's own process, which forks, holds no gRPC.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from bench.compare.serverful import protocol
from bench.compare.wire import PATIENCE, Wire


def prepare(given: bytes) -> list[bytes]:
    """Return the messages of a safetensors document: its header, then its floats."""
    header, floats = protocol.split(given)
    return [header, *protocol.pieces(floats)]


def serve(wire: Wire, prepared: list[bytes]) -> None:
    """Do what the wire says until it ends."""
    client = _Client(prepared)
    while True:
        order = wire.hear(None)
        wire.tell(**getattr(client, order.pop("do"))(**order))


class _Client:
    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self._channels: dict[str, grpc.Channel] = {}

    def connect(self, address: str) -> dict[str, Any]:
        channel = grpc.insecure_channel(address, options=protocol.OPTIONS)
        grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        self._channels[address] = channel
        return {"connected": True}

    def send(self, address: str, at: float, round_: int, samples: float) -> dict[str, Any]:
        """Send the update at ``at`` (CLOCK_MONOTONIC); say when what happened."""
        call = self._channels[address].stream_unary(protocol.ADD)
        about = (
            (protocol.ROUND, str(round_)),
            (protocol.SAMPLES, repr(samples)),
            (protocol.KIND, "update"),
        )
        last_byte = 0.0

        def feed() -> Iterator[bytes]:
            nonlocal last_byte
            yield from self._messages
            last_byte = time.monotonic()  # the last message was taken

        time.sleep(max(0.0, at - time.monotonic()))  # this is when it has its update
        started = time.monotonic()
        answer = call(feed(), timeout=PATIENCE, metadata=about)
        (summed,) = protocol.DONE.unpack(answer)
        return {"started": started, "last_byte": last_byte, "summed": summed}

    def open(self, address: str, round_: int, goal: int, parent: str) -> dict[str, Any]:
        order = json.dumps({"round": round_, "goal": goal, "parent": parent}).encode()
        self._channels[address].unary_unary(protocol.OPEN)(order, timeout=PATIENCE)
        return {"opened": True}

    def take(self, path: str) -> dict[str, Any]:
        """Send the document at ``path`` from now on."""
        self._messages = prepare(Path(path).read_bytes())
        return {"taken": True}

    def keep(self, address: str, version: int, length: int, path: str) -> dict[str, Any]:
        """Write the first ``length`` bytes of the model to ``path``; else as :meth:`model`."""
        told = self.model(address, version, [[0, length]])
        Path(path).write_bytes(bytes.fromhex(told.pop("bytes")))
        return told

    def model(self, address: str, version: int, ranges: list[list[int]]) -> dict[str, Any]:
        """Return when (CLOCK_MONOTONIC) the model was read, its Σ of samples, and the bytes."""
        order = json.dumps({"version": version, "ranges": ranges}).encode()
        answer = self._channels[address].unary_unary(protocol.MODEL)(order, timeout=PATIENCE)
        read = time.monotonic()
        (samples,) = protocol.HEAD.unpack_from(answer)
        return {"read": read, "samples": samples, "bytes": answer[protocol.HEAD.size :].hex()}
