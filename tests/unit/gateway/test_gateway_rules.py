"""The gateway's pure parts: polls, headers, ranges, places, problems."""

from __future__ import annotations

import base64
import json
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import Headers
from werkzeug.exceptions import NotFound

from functions.gateway import problems
from functions.gateway.attach import Gate
from functions.gateway.later import Later, patiently
from functions.gateway.model import byte_range
from functions.gateway.polls import Polls, answer, due, patience, published
from functions.gateway.problems import Refused
from functions.gateway.receive import Hashes, Limits
from functions.gateway.settings import GatewaySettings
from functions.gateway.transfers import TransferHead
from functions.gateway.upload import read_head
from functions.gateway.views import JobView
from lifl.auth import AuthError
from lifl.client.http import HttpError
from lifl.errors import ConfigError, PoolFull, Unavailable, UpdateError
from lifl.store import PoolGeometry, SlotKind
from lifl.update import Schema, TensorSpec

SCHEMA = Schema([TensorSpec("w", "F32", (1000,)), TensorSpec("n", "I64", (3,))])


def view(**changes: Any) -> JobView:
    raw = {
        "job": "digits",
        "round": 3,
        "assignment": 5,
        "version": 2,
        "phase": "open",
        "schema": SCHEMA.to_json(),
        "auth_key": "00" * 32,
        "selected": ["a", "b"],
        "accepted": ["b"],
        "lost": [],
        "upload": {"node-1": "http://n1"},
        "clients": {"a": "node-1", "b": "node-9"},
    }
    return JobView.from_json({**raw, **changes})


@pytest.mark.parametrize(
    ("changes", "after", "expected"),
    [
        ({}, None, True),
        ({}, 2, True),
        ({}, 3, False),
        ({"phase": "planning"}, 2, False),
        ({"phase": "closing"}, 2, False),
        ({"phase": "closing"}, None, True),
        ({"lost": ["a"]}, 3, True),
        ({"lost": ["a"], "phase": "closing"}, 3, False),
        ({"lost": ["b"]}, 3, False),
        ({"phase": "done"}, 3, True),
        ({"phase": "failed"}, 9, True),
    ],
)
def test_when_a_poll_is_due(changes: dict[str, Any], after: int | None, expected: bool) -> None:
    assert due(view(**changes), "a", after) is expected


MODEL = {"node": "node-0", "slot": 1, "generation": 1, "doc_start": 0, "doc_bytes": 8}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"version": 2, "model": MODEL}, False),
        ({"version": 3, "model": None}, False),
        ({"version": 3, "model": MODEL}, True),
        ({"version": 4, "model": MODEL}, True),
        ({"version": 2, "model": None, "phase": "stopped"}, True),
    ],
)
def test_when_a_reader_has_its_model(changes: dict[str, Any], expected: bool) -> None:
    assert published(view(**changes), 3) is expected


def test_a_poll_names_the_node_that_placement_chose() -> None:
    told = answer(view(deadline=50.0), "a", node="node-0", url="http://here", now=60.0)
    assert told["upload_url"] == "http://n1/v1/jobs/digits/rounds/3/updates"
    assert told["deadline_seconds"] == 0.0
    unplaced = answer(view(), "z", node="node-0", url="http://here", now=0.0)
    assert unplaced["upload_url"].startswith("http://here/")
    lost_node = answer(view(), "b", node="node-0", url="http://here", now=0.0)
    assert lost_node["upload_url"].startswith("http://here/")
    assert lost_node["your_update"] == "accepted"


def test_clients_are_sent_to_the_public_url_where_there_is_one() -> None:
    places = {
        "upload": {"node-0": "http://n0", "node-1": "http://n1", "node-2": "http://n2"},
        "public": {"node-0": "https://out/0", "node-1": "https://out/function/g"},
    }
    for client, base in (("a", "https://out/function/g"), ("z", "https://out/0")):
        told = answer(view(**places), client, node="node-0", url="http://here", now=0.0)
        assert told["upload_url"] == f"{base}/v1/jobs/digits/rounds/3/updates"
    told = answer(view(**places), "z", node="node-2", url="http://said", now=0.0)
    assert told["upload_url"] == "http://said/v1/jobs/digits/rounds/3/updates"


@given(st.none() | st.floats(-1e9, 1e9), st.floats(0, 100))
def test_patience_is_never_above_the_cap(asked: float | None, cap: float) -> None:
    assert 0 <= patience(asked, cap) <= cap


def test_parked_polls_wake_for_what_concerns_them_only() -> None:
    polls = Polls()
    ended: list[str] = []

    def park(client: str, after: int) -> None:
        polls.park("digits", lambda v: due(v, client, after), 20)
        ended.append(client)

    waiting = [gevent.spawn(park, c, n) for c, n in (("a", 3), ("b", 3), ("z", 7))]
    gevent.sleep(0)
    assert polls.parked == 3
    polls.changed(view())
    polls.changed(view(lost=["a"]))
    gevent.sleep(0.01)
    assert ended == ["a"]
    polls.changed(view(round=4, lost=["a"]))
    gevent.sleep(0.01)
    assert ended == ["a", "b"]
    polls.close()
    gevent.joinall(waiting, timeout=1, raise_error=True)
    assert polls.parked == 0
    polls.park("digits", lambda v: due(v, "late", 3), 20)  # returns at once


def test_an_unchanged_schema_is_read_once() -> None:
    first = view()
    again = JobView.from_json(
        {"job": "digits", "round": 4, "assignment": 6, "version": 3, "phase": "planning"}
        | {"schema": SCHEMA.to_json(), "auth_key": "00" * 32},
        first,
    )
    assert again.schema is first.schema
    assert again.selected is None
    assert again.chosen("anybody")


GOOD = {"LIFL-Client": "c1", "LIFL-Num-Samples": "12"}
SHA = base64.b64encode(bytes(32)).decode()


def test_an_uploads_headers_are_read() -> None:
    head = read_head(
        Headers(
            {
                **GOOD,
                "LIFL-Base-Version": "7",
                "LIFL-Update-Type": "delta",
                "LIFL-Metrics": '{"a": 1}',
                "Content-Digest": f"md5=:AA==:, sha-256=:{SHA}:",
                "Content-Type": "application/vnd.safetensors; v=1",
            }
        )
    )
    assert (head.client, head.num_samples, head.base_version) == ("c1", 12, 7)
    assert (head.update_type, head.metrics, head.sha256) == ("delta", {"a": 1}, bytes(32))
    plain = read_head(Headers(GOOD))
    assert (plain.base_version, plain.update_type, plain.metrics, plain.sha256) == (None,) * 4
    asked = head.claim(view(), 3, "node-0", 99)
    assert asked["nbytes"] == 99
    assert asked["metrics"] == {"a": 1}


@given(st.text(max_size=40))
def test_a_sample_count_is_a_whole_number_or_refused(raw: str) -> None:
    headers = Headers({**GOOD})
    headers["LIFL-Num-Samples"] = raw.replace("\r", "").replace("\n", "")
    try:
        count = read_head(headers).num_samples
    except Refused as e:
        assert (e.status, e.where) == (422, "LIFL-Num-Samples")
    else:
        assert 1 <= count <= 1 << 40


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (None, None),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 10)),
        ("bytes=90-500", (90, 10)),
        ("bytes=-5", (95, 5)),
        ("bytes=-500", (0, 100)),
        ("bytes=9-3", None),
        ("bytes=0-1,4-5", None),
        ("items=0-1", None),
        ("bytes=-", None),
    ],
)
def test_ranges(field: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(field, 100) == expected


@pytest.mark.parametrize("field", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_ranges_outside(field: str) -> None:
    with pytest.raises(Refused) as caught:
        byte_range(field, 100)
    assert caught.value.status == 416


@given(st.integers(8, 4000))
def test_every_document_ends_where_the_slot_ends_at_the_latest(header: int) -> None:
    schema = view().schema
    assert schema is not None
    geometry = PoolGeometry(1, 4096, 8192)
    limits = Limits(schema, geometry)
    start = limits.start(header)
    assert start >= 0
    assert start + header + SCHEMA.int_bytes == geometry.meta_bytes
    assert limits.end == geometry.meta_bytes + SCHEMA.float_bytes <= geometry.slot_bytes
    assert limits.start(8 + limits.header) >= 0
    with pytest.raises(Refused):
        limits.check_size(limits.document + 1)


def test_hashes_do_not_depend_on_the_pieces() -> None:
    data = bytes(range(256)) * 10
    whole, parts = Hashes(None), Hashes(None)
    whole.feed(memoryview(data))
    for i in range(0, len(data), 7):
        parts.feed(memoryview(data)[i : i + 7])
    assert whole.finish() == parts.finish()
    with pytest.raises(Refused, match="does not have the digest"):
        Hashes(bytes(32)).finish()


@given(
    st.floats(allow_nan=False),
    st.integers(1, 1000),
    st.integers(0, 2),
    st.sampled_from([SlotKind.UPDATE, SlotKind.PARTIAL]),
)
def test_a_transfers_headers_come_back_exactly(
    weight: float, count: int, layout: int, kind: SlotKind
) -> None:
    head = TransferHead("node-1", kind, count, weight, layout, 64, 5, 7)
    assert TransferHead.read(Headers(head.headers())) == head


PLAN = {
    "job": "digits",
    "assignment": 5,
    "epoch": 1,
    "timing": "eager",
    "roles": [{"name": "t", "node": "node-1", "level": "top", "goal": 2, "parent": None}],
    "clients": {},
}


def test_a_client_that_is_not_placed_yet_goes_where_aggregators_are() -> None:
    planned = view(plan=PLAN, clients={})
    assert answer(planned, "z", node="node-0", url="http://here", now=0.0)["upload_url"].startswith(
        "http://n1/"
    )
    assert answer(planned, "z", node="node-1", url="http://n1", now=0.0)["upload_url"].startswith(
        "http://n1/"
    )


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused(411, "length-required", "x"), 411, "length-required"),
        (UpdateError(422, "not-finite", "x", where="w[3]"), 422, "not-finite"),
        (AuthError(401, "token-missing", "x"), 401, "token-missing"),
        (HttpError(409, {"code": "round-closed", "detail": "x"}), 409, "round-closed"),
        (ConfigError("x"), 422, "unusable"),
        (PoolFull("x", retry_after=0.2), 503, "try-again"),
        (NotFound(), 404, "not-found"),
        (ZeroDivisionError("secret"), 500, "internal-error"),
    ],
)
def test_every_error_has_a_problem(error: Exception, status: int, code: str) -> None:
    problem = problems.of(error)
    document = json.loads(problem.document("/x"))
    assert (problem.status, document["status"], document["code"]) == (status, status, code)
    assert document["type"].endswith(f"/{code}")
    assert document["instance"] == "/x"
    assert "secret" not in json.dumps(document)
    headers = dict(problem.headers())
    assert ("Retry-After" in headers) == (status == 503)
    assert ("WWW-Authenticate" in headers) == (status == 401)


def test_an_inventory_passes_the_gate_alone() -> None:
    gate = Gate()
    trace: list[str] = []

    def confirm(name: str) -> None:
        with gate.shared():
            trace.append(f"{name} in")
            gevent.sleep(0.01)
            trace.append(f"{name} out")

    def inventory() -> None:
        with gate.alone():
            trace.append("inventory")
            gevent.sleep(0.01)
            trace.append("done")

    tasks = [gevent.spawn(confirm, "a"), gevent.spawn(confirm, "b")]
    gevent.sleep(0)
    tasks.append(gevent.spawn(inventory))
    gevent.sleep(0)
    tasks.append(gevent.spawn(confirm, "c"))
    gevent.joinall(tasks, raise_error=True)
    assert trace == ["a in", "b in", "a out", "b out", "inventory", "done", "c in", "c out"]


def test_later_keeps_the_error_for_its_caller() -> None:
    def fail() -> int:
        raise Unavailable("no")

    later = Later(fail)
    with pytest.raises(Unavailable):
        later.get()
    assert later.failed
    assert Later(lambda: 3).get() == 3
    slow = Later(lambda: gevent.sleep(5))
    with pytest.raises(TimeoutError):
        slow.get(0.01)


def test_patiently_asks_until_there_is_an_answer() -> None:
    left = [Unavailable("1"), Unavailable("2")]

    def ask() -> str:
        if left:
            raise left.pop()
        return "yes"

    assert patiently(ask) == "yes"
    with pytest.raises(ConfigError):
        patiently(lambda: (_ for _ in ()).throw(ConfigError("never")))


def test_settings() -> None:
    settings = GatewaySettings.from_env({"LIFL_GATEWAY_URL": "http://h:1/", "LIFL_POLL_CAP": "5"})
    assert (settings.url, settings.poll_cap, settings.body_idle) == ("http://h:1", 5.0, 30.0)
    with pytest.raises(ConfigError, match="LIFL_GATEWAY_URL"):
        GatewaySettings.from_env({})
    with pytest.raises(ConfigError, match="LIFL_BODY_IDLE"):
        GatewaySettings.from_env({"LIFL_GATEWAY_URL": "http://h", "LIFL_BODY_IDLE": "-1"})
    outside = {"LIFL_GATEWAY_URL": "http://h", "LIFL_PUBLIC_URL": "http://h:8080/function/g/"}
    assert GatewaySettings.from_env(outside).public_url == "http://h:8080/function/g"
    with pytest.raises(ConfigError, match="LIFL_PUBLIC_URL"):
        GatewaySettings.from_env(outside | {"LIFL_PUBLIC_URL": "h:8080"})
