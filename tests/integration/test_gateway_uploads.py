"""Updates through the real gateway process: what is accepted, and what is not."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lifl.store import SlotKind, SlotState
from lifl.update import Schema, TensorSpec, check, flatten, iter_document, parse_header
from lifl.wire import Opcode

from .gateway_kit import JOB, SMALL, GatewayKit, arrays_of, await_true, document, gateway

PATH = f"/v1/jobs/{JOB}/rounds/1/updates"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayKit]:
    with gateway(tmp_path_factory.mktemp("gateway"), LIFL_BODY_IDLE="1", slots=4) as kit:
        yield kit


@pytest.fixture
def kit(shared: GatewayKit) -> Iterator[GatewayKit]:
    yield shared
    for ref in shared.pool.find(state=SlotState.SEALED):
        shared.pool.discard(ref)
    await_true(lambda: not shared.pool.find())
    shared.coordinator.claims.clear()
    shared.coordinator.calls.clear()
    shared.coordinator.rules.clear()
    while not shared.agent.sent.empty():
        shared.agent.sent.get()


def sealed_document(kit: GatewayKit) -> bytes:
    (ref,) = kit.pool.find(state=SlotState.SEALED)
    entry = kit.pool.entry(ref.slot)
    return bytes(kit.pool.slot_bytes(ref.slot)[entry.doc_start :][: entry.doc_bytes])


def raw_head(length: int | str, **extra: str) -> bytes:
    fields = {"Host": "x", "LIFL-Client": "c1", "LIFL-Num-Samples": "10"}
    fields |= {"Content-Length": str(length)} | {k.replace("_", "-"): v for k, v in extra.items()}
    lines = [f"POST {PATH} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def read_answer(sock: socket.socket) -> tuple[int, dict[str, Any]]:
    """Read exactly one answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    fields = head.decode().lower().split("\r\n")
    length = next(int(f.split(":")[1]) for f in fields if f.startswith("content-length"))
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    return int(head.split()[1]), json.loads(body)


def post_slowly(kit: GatewayKit, sent: bytes) -> tuple[int, dict[str, Any]]:
    """POST an update whose end is sent when its claim has come."""
    with kit.connect() as sock:
        sock.sendall(raw_head(len(sent)) + sent[:-10])
        await_true(lambda: kit.coordinator.asked("POST", "/internal/v1/claims"))
        sock.sendall(sent[-10:])
        return read_answer(sock)


WAYS: dict[str, tuple[Callable[[GatewayKit, bytes], tuple[int, dict[str, Any]]], str]] = {
    "at once": (lambda kit, sent: kit.post(sent), "POST /internal/v1/updates"),
    "claimed before": (post_slowly, "POST /internal/v1/claims/"),
}
"""How an update is sent, and the question by which it counts."""


def test_an_accepted_update_lies_sealed_with_its_floats_aligned(kit: GatewayKit) -> None:
    sent = document(SMALL, 3)
    status, told = kit.post(sent, LIFL_Base_Version="0", LIFL_Metrics='{"loss": 0.5}')
    assert (status, told["duplicate"]) == (202, False)
    assert sealed_document(kit) == sent
    (ref,) = kit.pool.find(state=SlotState.SEALED)
    entry = kit.pool.entry(ref.slot)
    assert (entry.kind, entry.serial, entry.weight) == (SlotKind.UPDATE, told["serial"], 10.0)
    assert entry.layout == 0
    expected = np.concatenate(
        [arrays_of(SMALL, 3)[s.name].reshape(-1) for s in SMALL.tensors if s.is_float]
    )
    np.testing.assert_array_equal(kit.pool.floats(ref.slot)[: len(expected)], expected)
    descriptor = kit.agent.sent.get(timeout=5)
    assert (descriptor.opcode, descriptor.slot, descriptor.generation) == (Opcode.OBJECT, *ref)
    (asked,) = kit.coordinator.asked("POST", "/internal/v1/updates")
    assert not kit.coordinator.asked("POST", "/internal/v1/claims")
    assert asked["metrics"] == {"loss": 0.5}
    assert asked["nbytes"] == len(sent)
    assert (asked["slot"], asked["generation"]) == ref


def test_an_update_that_takes_a_while_is_claimed_by_itself(kit: GatewayKit) -> None:
    sent = document(SMALL, 3)
    status, told = post_slowly(kit, sent)
    assert (status, told["duplicate"]) == (202, False)
    assert sealed_document(kit) == sent
    assert list(kit.coordinator.claims) == [told["serial"]]
    assert not kit.coordinator.asked("POST", "/internal/v1/updates")
    (counted,) = kit.coordinator.asked("POST", f"/internal/v1/claims/{told['serial']}/sealed")
    assert counted["digest"]


@pytest.mark.parametrize("way", WAYS)
def test_the_coordinator_counts_before_the_object_can_be_seen(kit: GatewayKit, way: str) -> None:
    seen = []

    def look(*_: object) -> None:
        seen.append([kit.pool.entry(r.slot).state for r in kit.pool.find()])

    send, question = WAYS[way]
    kit.coordinator.rules[question] = look
    assert send(kit, document(SMALL))[0] == 202
    assert seen == [[SlotState.WRITING]]


@pytest.mark.parametrize("half", ["float16", "reordered"])
def test_other_layouts_are_taken_as_they_come(kit: GatewayKit, half: str) -> None:
    arrays = arrays_of(SMALL, 5)
    if half == "float16":
        arrays = {
            k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in arrays.items()
        }
        sent = b"".join(iter_document(arrays, SMALL))
    else:
        sent = reordered(arrays)
    assert kit.post(sent)[0] == 202
    assert sealed_document(kit) == sent
    (ref,) = kit.pool.find(state=SlotState.SEALED)
    assert kit.pool.entry(ref.slot).layout == 1
    layout = check(parse_header(sent, len(sent)), SMALL)
    floats = np.empty(SMALL.float_elements, np.float32)
    integers = bytearray(SMALL.int_bytes)
    flatten(sealed_document(kit), layout, floats, integers)
    assert int.from_bytes(integers, "little") == 5


def reordered(arrays: dict[str, np.ndarray]) -> bytes:
    """Write the tensors in the reverse of the canonical order."""
    entries, data = {}, b""
    for spec in reversed(SMALL.tensors):
        raw = arrays[spec.name].tobytes()
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(entries).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def test_the_same_update_twice_counts_once_and_another_is_refused(kit: GatewayKit) -> None:
    first = kit.post(document(SMALL))[1]
    status, again = kit.post(document(SMALL))
    assert (status, again["serial"], again["duplicate"]) == (202, first["serial"], True)
    status, problem = kit.post(document(SMALL, 1))
    assert (status, problem["code"]) == (409, "duplicate-differs")
    assert len(kit.pool.find()) == 1
    assert sealed_document(kit) == document(SMALL)


def test_a_retry_after_the_round_moved_on_is_still_a_duplicate(kit: GatewayKit) -> None:
    first = kit.post(document(SMALL))[1]
    kit.publish(round=2)
    try:
        status, again = kit.post(document(SMALL))
        assert (status, again["serial"]) == (202, first["serial"])
        assert kit.post(document(SMALL), client="c2")[1]["code"] == "wrong-round"
    finally:
        kit.publish(round=1)


def test_a_chunked_body_is_taken(kit: GatewayKit) -> None:
    sent = document(SMALL)
    status, _ = kit.post(iter([sent[:5], sent[5:300], sent[300:]]))
    assert status == 202
    assert sealed_document(kit) == sent


def test_one_connection_serves_uploads_and_other_requests(kit: GatewayKit) -> None:
    sent = document(SMALL)
    follow = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with kit.connect() as sock:
        sock.sendall(raw_head(len(sent)) + sent + follow)  # pipelined
        assert read_answer(sock)[0] == 202
        assert read_answer(sock) == (200, {"node": "node-0", "status": "ok"})
        sock.sendall(raw_head(len(sent), LIFL_Client="c2").replace(b"LIFL-Client: c1\r\n", b""))
        for i in range(0, len(sent), 100):
            sock.sendall(sent[i : i + 100])
        assert read_answer(sock)[0] == 202


def test_expect_100_continue_is_answered_at_once_and_after_the_claim(kit: GatewayKit) -> None:
    sent = document(SMALL)
    with kit.connect() as sock:
        began = time.monotonic()
        sock.sendall(raw_head(len(sent), Expect="100-continue"))
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert time.monotonic() - began < 0.5
        assert kit.coordinator.asked("POST", "/internal/v1/claims")
        sock.sendall(sent)
        assert read_answer(sock)[0] == 202
    with kit.connect() as sock:
        sock.sendall(raw_head(len(sent), Expect="100-continue", Content_Encoding="gzip"))
        status, problem = read_answer(sock)
        assert (status, problem["code"]) == (415, "content-encoding")
        assert sock.recv(10) == b""


def mutated(**changes: Any) -> bytes:
    """Return a document of SMALL with one header entry changed."""
    sent = document(SMALL)
    size = int.from_bytes(sent[:8], "little")
    entries = json.loads(sent[8 : 8 + size])
    entries["fc.bias"] |= changes
    head = json.dumps(entries).encode().ljust(size)
    return len(head).to_bytes(8, "little") + head + sent[8 + size :]


def with_value(value: float) -> bytes:
    arrays = arrays_of(SMALL)
    arrays["fc.bias"][3] = value
    return b"".join(iter_document(arrays, SMALL))


HUGE = b"\xff" * 7 + b"\x7f"
OTHER = Schema([TensorSpec("fc.bias", "F32", (10,)), TensorSpec("x", "F32", (2,))])
HOSTILE: dict[str, tuple[bytes, dict[str, str], int, str, str]] = {
    "nan": (with_value(np.nan), {}, 422, "not-finite", "fc.bias[3]"),
    "inf": (with_value(-np.inf), {}, 422, "not-finite", "fc.bias[3]"),
    "shape": (mutated(shape=[5, 2]), {}, 422, "wrong-shape", "fc.bias"),
    "dtype": (mutated(dtype="I32"), {}, 422, "wrong-dtype", "fc.bias"),
    "overlap": (mutated(data_offsets=[0, 40]), {}, 422, "bad-offsets", ""),
    "not-json": (b"\x10" + bytes(7) + b"{" * 16 + bytes(200), {}, 422, "malformed-header", ""),
    "not-safetensors": (b"PK\x03\x04" * 100, {}, 422, "header-length", "bytes 0-7"),
    "tiny": (b"abc", {}, 422, "truncated", ""),
    "header-length": (HUGE + bytes(100), {}, 422, "header-length", "bytes 0-7"),
    "other-model": (document(OTHER), {}, 422, "missing-tensor", ""),
    "too-large": (document(SMALL) + bytes(200_000), {}, 413, "too-large", "Content-Length"),
    "gzip": (b"x", {"Content_Encoding": "gzip"}, 415, "content-encoding", "Content-Encoding"),
    "media": (b"x", {"Content_Type": "text/html"}, 415, "media-type", "Content-Type"),
    "negative": (b"x", {"LIFL_Num_Samples": "-1"}, 422, "bad-number", "LIFL-Num-Samples"),
    "zero": (b"x", {"LIFL_Num_Samples": "0"}, 422, "bad-number", "LIFL-Num-Samples"),
    "huge": (b"x", {"LIFL_Num_Samples": "9" * 30}, 422, "bad-number", "LIFL-Num-Samples"),
    "fraction": (b"x", {"LIFL_Num_Samples": "1.5"}, 422, "bad-number", "LIFL-Num-Samples"),
    "client": (b"x", {"LIFL_Client": "../etc"}, 422, "client-name", "LIFL-Client"),
    "metrics": (b"x", {"LIFL_Metrics": "[1]"}, 422, "bad-metrics", "LIFL-Metrics"),
    "digest": (b"x", {"Content_Digest": "sha-256=:AA=:"}, 400, "bad-digest", "Content-Digest"),
    "type": (b"x", {"LIFL_Update_Type": "x"}, 422, "wrong-update-type", "LIFL-Update-Type"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_uploads_get_a_problem_and_leave_nothing(kit: GatewayKit, case: str) -> None:
    body, headers, status, code, where = HOSTILE[case]
    got, problem = kit.post(body, **headers)
    assert (got, problem["code"]) == (status, code)
    assert problem.get("where", "").startswith(where)
    assert problem["detail"]
    assert problem["type"].endswith(code)
    await_true(lambda: not kit.pool.find())
    await_true(lambda: not kit.coordinator.claims)
    assert kit.post(document(SMALL))[0] == 202


def test_a_digest_that_does_not_fit_is_refused(kit: GatewayKit) -> None:
    sent = document(SMALL)
    right = base64.b64encode(hashlib.sha256(sent).digest()).decode()
    wrong = base64.b64encode(hashlib.sha256(b"").digest()).decode()
    status, problem = kit.post(sent, Content_Digest=f"sha-256=:{wrong}:")
    assert (status, problem["code"]) == (400, "digest-differs")
    assert kit.post(sent, Content_Digest=f"sha-256=:{right}:")[0] == 202


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (raw_head(5).replace(b"Content-Length: 5\r\n", b""), 411, "length-required"),
        (raw_head("-5"), 400, "malformed-request"),
        (raw_head("5", Transfer_Encoding="chunked") + b"0\r\n\r\n", 400, "malformed-request"),
        (raw_head(5, X="y" * 9000), 431, "headers-too-large"),
        (raw_head(5, Expect="magic"), 417, "unknown-expectation"),
        (b"GET /%s HTTP/1.1\r\n\r\n" % (b"x" * 9000), 414, "request-line-too-long"),
        (b"\x16\x03\x01\x00\x05hello\r\n\r\n", 400, "malformed-request"),
    ],
)
def test_requests_without_sense_get_a_problem(
    kit: GatewayKit, head: bytes, status: int, code: str
) -> None:
    with kit.connect() as sock:
        sock.sendall(head)
        got, problem = read_answer(sock)
        assert (got, problem["code"]) == (status, code)


def test_broken_chunks_get_a_problem(kit: GatewayKit) -> None:
    head = raw_head(0, Transfer_Encoding="chunked").replace(b"Content-Length: 0\r\n", b"")
    with kit.connect() as sock:
        sock.sendall(head + b"zz\r\nhello\r\n")
        status, problem = read_answer(sock)
        assert (status, problem["code"]) == (400, "bad-chunk")
    await_true(lambda: not kit.pool.find())


def test_an_endless_chunked_body_is_cut_off(kit: GatewayKit) -> None:
    size = 1 << 20
    prefix = document(SMALL)
    body = iter([prefix, *(bytes(size) for _ in range(8))])
    status, problem = kit.post(body)
    assert (status, problem["code"]) == (413, "too-large")


def test_a_client_that_goes_away_leaves_nothing(kit: GatewayKit) -> None:
    sent = document(SMALL)
    with kit.connect() as sock:
        sock.sendall(raw_head(len(sent)) + sent[:-10])
        await_true(lambda: kit.coordinator.claims)
        await_true(lambda: len(kit.pool.find()) == 1)
    await_true(lambda: not kit.pool.find())
    await_true(lambda: not kit.coordinator.claims)


def test_a_body_shorter_than_it_claims_times_out(kit: GatewayKit) -> None:
    sent = document(SMALL)
    with kit.connect() as sock:
        sock.sendall(raw_head(len(sent)) + sent[:-10])
        status, problem = read_answer(sock)
        assert (status, problem["code"]) == (408, "body-idle")
    await_true(lambda: not kit.pool.find())


def test_a_refused_large_body_does_not_hide_the_answer(kit: GatewayKit) -> None:
    with kit.connect() as sock:
        sock.sendall(raw_head(30 << 20))
        sock.sendall(bytes(30 << 20))  # a client that reads only when it has sent all
        status, problem = read_answer(sock)
        assert (status, problem["code"]) == (413, "too-large")


def test_a_full_pool_answers_503_and_keeps_what_it_has(kit: GatewayKit) -> None:
    for i in range(4):
        assert kit.post(document(SMALL, i), client=f"c{i}")[0] == 202
    status, raw, headers = kit.request(
        "POST", PATH, document(SMALL), {"LIFL-Client": "c9", "LIFL-Num-Samples": "1"}
    )
    assert status == 503
    assert int(headers["Retry-After"]) >= 1
    assert json.loads(raw)["code"] == "try-again"
    assert len(kit.pool.find(state=SlotState.SEALED)) == 4
    assert len(kit.coordinator.claims) == 4


def test_a_claim_that_is_refused_midway_stops_the_upload(kit: GatewayKit) -> None:
    refusal = {"code": "round-closed", "detail": "closed", "status": 409}
    kit.coordinator.rules["POST /internal/v1/claims"] = lambda *_: (409, refusal)
    status, problem = post_slowly(kit, document(SMALL))
    assert (status, problem["code"]) == (409, "round-closed")
    assert not kit.pool.find()


@pytest.mark.parametrize("way", WAYS)
def test_an_update_the_coordinator_does_not_count_is_dropped(kit: GatewayKit, way: str) -> None:
    refusal = {"code": "round-closed", "detail": "closed", "status": 409}
    send, question = WAYS[way]
    kit.coordinator.rules[question] = lambda *_: (409, refusal)
    status, problem = send(kit, document(SMALL))
    assert (status, problem["code"]) == (409, "round-closed")
    assert not kit.pool.find()
    assert kit.agent.sent.empty()


def test_an_update_for_an_attempt_that_is_over_is_asked_for_again(kit: GatewayKit) -> None:
    refusal = {"code": "wrong-assignment", "detail": "began anew", "status": 409}
    kit.coordinator.rules["POST /internal/v1/updates"] = lambda *_: (409, refusal)
    status, problem = kit.post(document(SMALL))
    assert (status, problem["code"]) == (503, "try-again")
    assert not kit.pool.find()


def test_the_same_update_twice_at_once_is_one(kit: GatewayKit) -> None:
    """The gateway does not know yet that the first was accepted; the coordinator does."""
    sent = document(SMALL, 1)
    first = kit.post(sent)[1]
    assert kit.post(sent) == (202, first | {"duplicate": True})
    status, problem = kit.post(document(SMALL, 2))
    assert (status, problem["code"]) == (409, "duplicate-differs")
    assert sealed_document(kit) == sent


@pytest.mark.parametrize("way", WAYS)
def test_a_lost_confirmation_is_asked_for_again(kit: GatewayKit, way: str) -> None:
    send, question = WAYS[way]
    tries = []

    def once(*asked: Any) -> tuple[int, Any] | None:
        tries.append(asked)
        return (503, {"code": "try-again"}) if len(tries) < 3 else None

    kit.coordinator.rules[question] = once
    assert send(kit, document(SMALL))[0] == 202
    assert len(tries) == 3
    assert len({t[1] for t in tries}) == 1
    assert len(kit.pool.find(state=SlotState.SEALED)) == 1


def test_bodies_that_nobody_wants_hold_no_memory(kit: GatewayKit) -> None:
    """Refused, but still expected to come, so that their clients read the answer."""
    head = raw_head(1 << 20).replace(PATH.encode(), b"/v1/jobs/nobody/rounds/1/updates")
    before = private_kb(kit)
    with contextlib.ExitStack() as held:
        for _ in range(300):
            sock = held.enter_context(kit.connect())
            sock.sendall(head + b"x")
            assert read_answer(sock)[0] == 404
        assert private_kb(kit) - before < 300 * 64


def private_kb(kit: GatewayKit) -> int:
    lines = Path(f"/proc/{kit.worker_pid()}/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1])


def test_memory_stays_flat_under_hostile_uploads(kit: GatewayKit) -> None:
    for i in range(20):
        kit.post(bytes(2 << 20), client=f"c{i}")
    before = private_kb(kit)
    for i in range(100):
        kit.post(bytes(2 << 20), client=f"c{i}")
    assert private_kb(kit) - before < 4096


def test_a_gateway_killed_between_count_and_seal_reports_what_it_has(tmp_path: Path) -> None:
    with gateway(tmp_path) as kit:
        kept = kit.post(document(SMALL), client="kept")[1]["serial"]

        def kill(*_: object) -> tuple[int, Any]:
            os.killpg(kit.process.pid, signal.SIGKILL)  # type: ignore[union-attr]
            return 204, {"serial": 7}

        kit.coordinator.rules["POST /internal/v1/updates"] = kill
        with pytest.raises((ConnectionError, OSError)):
            kit.post(document(SMALL, 1), client="hit")
        kit.kill()
        kit.coordinator.rules.clear()
        kit.coordinator.calls.clear()
        kit.start()
        (report,) = kit.coordinator.asked("POST", "/internal/v1/nodes/node-0/inventory")
        assert report["serials"] == [kept]
