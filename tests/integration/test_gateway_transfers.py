"""Partial sums between two real gateways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.gateway.transfers import TransferHead
from lifl import auth
from lifl.store import Seal, SlotKind, SlotRef, SlotState
from lifl.wire import Descriptor, Opcode

from .gateway_kit import JOB, SECRET, SMALL, GatewayKit, await_true, document, gateway

SERIAL = (1 << 63) + 5
COVER = [3, 1, 2]


def plan(top: str) -> dict[str, Any]:
    roles = [
        {"name": "agg-0", "node": top, "level": "top", "goal": 1, "parent": None},
        {"name": "agg-1", "node": "node-1", "level": "leaf", "goal": 3, "parent": "agg-0"},
    ]
    job = {"job": JOB, "assignment": 1, "epoch": 1, "timing": "eager"}
    return {**job, "roles": roles, "clients": {}}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[GatewayKit, GatewayKit]]:
    with gateway(tmp_path, node="node-0") as target, gateway(tmp_path, node="node-1") as source:
        upload = {"node-0": target.url, "node-1": source.url}
        source.publish(upload=upload, plan=plan("node-0"))
        yield target, source


def put_partial(kit: GatewayKit, assignment: int = 1, layout: int = 0) -> SlotRef:
    ref = kit.pool.reserve(SlotKind.PARTIAL, 50, assignment)
    raw = document(SMALL, 9)
    start = kit.pool.geometry.meta_bytes - SMALL.float_start
    kit.pool.slot_bytes(ref.slot)[start : start + len(raw)] = raw
    kit.pool.seal(ref, 50, Seal(SERIAL, 0.1 + 30, start, len(raw), layout, cover=COVER))
    return ref


def send(kit: GatewayKit, ref: SlotRef) -> None:
    kit.agent.inject(Descriptor(Opcode.OBJECT, *ref, 1, 1))


def test_a_partial_arrives_once_and_is_freed_at_its_source(
    pair: tuple[GatewayKit, GatewayKit],
) -> None:
    target, source = pair
    ref = put_partial(source)
    send(source, ref)
    send(source, ref)
    await_true(lambda: target.pool.find(state=SlotState.SEALED))
    (here,) = target.pool.find()
    entry = target.pool.entry(here.slot)
    assert (entry.kind, entry.serial, entry.weight) == (SlotKind.PARTIAL, SERIAL, 0.1 + 30)
    assert (entry.layout, entry.assignment) == (0, 1)
    assert target.pool.cover(here.slot).tolist() == COVER
    raw = bytes(target.pool.slot_bytes(here.slot)[entry.doc_start :][: entry.doc_bytes])
    assert raw == document(SMALL, 9)
    assert target.agent.dispatched.get(timeout=5)["slot"] == here.slot
    await_true(lambda: not source.pool.find())
    (asked,) = source.coordinator.asked("POST", "/internal/v1/transfers")
    assert asked["cover"] == COVER
    assert (asked["from"], asked["to"], asked["serial"]) == ("node-1", "node-0", SERIAL)
    (sealed,) = target.coordinator.asked("POST", f"/internal/v1/transfers/{SERIAL}/sealed")
    assert (sealed["node"], sealed["slot"]) == ("node-0", here.slot)


def test_a_mean_goes_to_the_coordinators_node(pair: tuple[GatewayKit, GatewayKit]) -> None:
    target, source = pair
    place = {"node": "node-0", "slot": 0, "generation": 9}
    source.publish(plan=plan("node-1"), model=place)
    send(source, put_partial(source, layout=2))
    await_true(lambda: target.pool.find(state=SlotState.SEALED))
    await_true(lambda: not source.pool.find())


def test_an_update_that_landed_where_no_aggregator_is_goes_on(
    pair: tuple[GatewayKit, GatewayKit],
) -> None:
    target, source = pair
    here = plan("node-0")
    here["roles"] = here["roles"][:1]
    source.publish(plan=here)
    sent = document(SMALL, 5)
    status, told = source.post(sent, LIFL_Num_Samples="7")
    assert status == 202
    source.publish(accepted=["c1"])
    await_true(lambda: target.pool.find(state=SlotState.SEALED))
    (ref,) = target.pool.find()
    entry = target.pool.entry(ref.slot)
    assert (entry.kind, entry.serial, entry.weight) == (SlotKind.UPDATE, told["serial"], 7.0)
    raw = bytes(target.pool.slot_bytes(ref.slot)[entry.doc_start :][: entry.doc_bytes])
    assert raw == sent
    await_true(lambda: not source.pool.find())


def test_a_transfer_that_had_arrived_is_not_kept_twice(
    pair: tuple[GatewayKit, GatewayKit],
) -> None:
    target, source = pair
    before = {"code": "transfer-sealed", "detail": "sealed", "status": 409}
    target.coordinator.rules["POST /internal/v1/transfers/"] = lambda *_: (409, before)
    send(source, put_partial(source))
    await_true(lambda: not source.pool.find())
    assert not target.pool.find()


def test_a_partial_nobody_wants_is_freed(pair: tuple[GatewayKit, GatewayKit]) -> None:
    target, source = pair
    gone = {"code": "transfer-gone", "detail": "gone", "status": 409}
    source.coordinator.rules["POST /internal/v1/transfers"] = lambda *_: (409, gone)
    send(source, put_partial(source))
    await_true(lambda: not source.pool.find())
    source.coordinator.rules.clear()
    source.publish(assignment=5)
    send(source, put_partial(source, 4))
    await_true(lambda: not source.pool.find())
    assert not target.pool.find()


def test_a_partial_waits_until_its_target_answers(pair: tuple[GatewayKit, GatewayKit]) -> None:
    target, source = pair
    target.kill()
    send(source, put_partial(source))
    await_true(lambda: len(source.coordinator.asked("POST", "/internal/v1/transfers")) > 1)
    assert source.pool.find(state=SlotState.TAKEN)
    target.start()
    await_true(lambda: target.pool.find(state=SlotState.SEALED))
    await_true(lambda: not source.pool.find())


def test_a_partial_whose_parent_came_to_its_node_is_given_back(
    pair: tuple[GatewayKit, GatewayKit],
) -> None:
    _, source = pair
    source.publish(plan=None)
    ref = put_partial(source)
    send(source, ref)
    await_true(lambda: source.pool.find(state=SlotState.TAKEN))
    source.publish(plan=plan("node-1"))
    await_true(lambda: source.pool.find(state=SlotState.SEALED) == [ref])


@pytest.mark.parametrize(
    ("count", "size", "status"), [(3, 24 + 552, 200), (3, 24, 400), (0, 552, 400), (4, 576, 400)]
)
def test_a_transfer_is_checked(
    pair: tuple[GatewayKit, GatewayKit], count: int, size: int, status: int
) -> None:
    target, _ = pair
    path = f"/internal/v1/transfers/{JOB}/1/77"
    start = target.pool.geometry.meta_bytes - SMALL.float_start
    head = TransferHead("node-1", SlotKind.PARTIAL, count, 3.0, 0, start, 552, 0)
    headers = head.headers() | {"Content-Length": str(size)}
    assert target.request("PUT", path, bytes(size), headers)[0] == 401
    token = auth.mint_platform_token(bytes.fromhex(SECRET), "test")
    headers["Authorization"] = f"Bearer {token}"
    assert target.request("PUT", path, bytes(size), headers)[0] == status
    headers["LIFL-Weight"] = "heavy"
    assert target.request("PUT", path, bytes(size), headers)[0] == 400
