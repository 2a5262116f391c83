"""A client that calls Flower's own Fleet functions and holds its update ready, in Flower's venv.

Why: the stock SuperNode starts a process for each message and polls every three seconds; that is
the client's cost and would hide the server's. This registers, pulls and pushes with the very
functions of the SuperNode, from a process of its own, and skips the rest, which flatters Flower.
Hashes and chunks of the update are made before the round.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supernode.fleet_http_connection import http_request_response

from bench.compare import mean, updates
from bench.compare.wire import Wire

ASK_AGAIN = 0.2
"""Seconds; before a round is released nothing is timed."""
Given = tuple[bytes, updates.F32]


def prepare(given: bytes) -> Given:
    """Return the document, and the update of the client with factor 1."""
    return given, updates.ramped(given)


def serve(wire: Wire, prepared: Given) -> None:
    """Be a node: do what the wire says until it ends."""
    document, first = prepared
    hello = wire.hear(None)
    client = hello["client"]
    values = first * np.float32(updates.factor(client))
    arrays = ArrayRecord({n: Array(t) for n, t in updates.tensors(document, values).items()})
    content = RecordDict(
        {"arrays": arrays, "metrics": MetricRecord({"num-examples": mean.samples(client)})}
    )
    with http_request_response(hello["address"], insecure=True) as connection:
        node, receive, send, _, _, pull_object, push_object, confirm = connection
        wire.tell(node=node)
        with contextlib.suppress(EOFError):
            while True:
                wire.hear(None)  # a round is about to come
                instruction = _await(wire, receive)
                if instruction is None:
                    wire.tell(resting=True)
                    continue
                message, tree = instruction
                run = message.metadata.run_id
                ids = [part.object_id for part in iterate_object_tree(tree)]
                pull_objects(ids, lambda object_id: pull_object(run, object_id))  # noqa: B023
                confirm(run, message.metadata.message_id)
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__["_message_id"] = reply.object_id
                with no_object_id_recompute():
                    reply_tree = get_object_tree(reply)
                    objects = {k: o.deflate() for k, o in get_all_nested_objects(reply).items()}
                wire.tell(ready=True, node=node)
                at = wire.hear(None)["at"]
                time.sleep(max(0.0, at - time.monotonic()))  # this is when it has its update
                wire.tell(**_send(run, reply, reply_tree, objects, send, push_object))


def _await(wire: Wire, receive: Any) -> Any:
    """Return the instruction for this node; None if it is told that it has none."""
    while (instruction := receive()) is None:
        try:
            wire.hear(ASK_AGAIN)
        except TimeoutError:
            continue
        return None
    return instruction


def _send(  # noqa: PLR0917
    run: int, reply: Message, tree: Any, objects: dict[str, bytes], send: Any, push: Any
) -> dict[str, Any]:
    started = time.monotonic()
    wanted, session = send(reply, tree, 0.0)
    order = dict.fromkeys(part.object_id for part in iterate_object_tree(tree))
    pushed = {key: objects[key] for key in order if key in wanted}
    push_object_contents_from_iterable(
        pushed.items(), lambda key, content: push(run, session, key, content)
    )
    return {
        "started": started,
        "last_byte": time.monotonic(),
        "bytes": sum(map(len, pushed.values())),
    }
