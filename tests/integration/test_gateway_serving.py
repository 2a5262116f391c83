"""Polls, models, probes, restarts and shutdown of the real gateway process."""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lifl import auth
from lifl.limits import allow_most_files
from lifl.store import Seal, SlotKind, SlotRef, SlotState

from .gateway_kit import (
    JOB,
    KEY,
    SMALL,
    FakeAgent,
    FakeCoordinator,
    GatewayKit,
    await_true,
    document,
    gateway,
)

CURRENT = f"/v1/jobs/{JOB}/rounds/current"
MODEL = f"/v1/jobs/{JOB}/model"


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[GatewayKit]:
    with gateway(tmp_path) as running:
        yield running


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def parked(kit: GatewayKit) -> int:
    lines = kit.get("/metrics")[1].decode().splitlines()
    return int(
        float(next(x for x in lines if x.startswith("lifl_gateway_polls_parked")).split()[1])
    )


def put_model(kit: GatewayKit, seed: int, version: int) -> SlotRef:
    """Seal a model in the pool as the coordinator does, and publish it."""
    ref = kit.pool.reserve(SlotKind.MODEL, 99, 0)
    start = kit.pool.geometry.meta_bytes - SMALL.float_start
    raw = document(SMALL, seed)
    kit.pool.slot_bytes(ref.slot)[start : start + len(raw)] = raw
    kit.pool.seal(ref, 99, Seal(version, 0.0, start, len(raw)))
    place = {"node": kit.node, "slot": ref.slot, "generation": ref.generation}
    place |= {"doc_start": start, "doc_bytes": len(raw)}
    kit.coordinator.bump(version=version, model=place)
    await_true(lambda: kit.get(f"{MODEL}?version={version}")[0] == 200)
    return ref


def test_a_poll_tells_the_client_its_work(kit: GatewayKit) -> None:
    kit.coordinator.bump(selected=["c1"], accepted=["c1"], deadline=time.time() + 60)
    await_true(lambda: json.loads(kit.get(f"{CURRENT}?client=c1")[1])["your_update"] == "accepted")
    told = json.loads(kit.get(f"{CURRENT}?client=c1")[1])
    assert 50 < told.pop("deadline_seconds") <= 60
    assert told == {
        "job": JOB,
        "round": 1,
        "version": 0,
        "state": "open",
        "selected": True,
        "model_url": f"{MODEL}?version=0",
        "upload_url": f"{kit.url}/v1/jobs/{JOB}/rounds/1/updates",
        "your_update": "accepted",
        "update_type": "weights",
        "client_config": {"lr": 0.1},
    }
    assert not json.loads(kit.get(f"{CURRENT}?client=c2")[1])["selected"]


def test_the_coordinator_hears_of_new_clients_at_once(kit: GatewayKit) -> None:
    kit.get(f"{CURRENT}?client=new")
    beats = lambda: kit.coordinator.asked("POST", "/internal/v1/nodes/node-0")  # noqa: E731
    await_true(lambda: any("new" in b.get("clients", {}).get(JOB, ()) for b in beats()), 0.6)


def test_a_parked_poll_is_answered_when_the_round_opens(kit: GatewayKit) -> None:
    thread, found = in_thread(lambda: kit.get(f"{CURRENT}?client=c1&after=1&wait=20"))
    await_true(lambda: parked(kit) == 1)
    kit.publish(phase="closing")
    kit.publish(phase="planning", round=2, assignment=2, version=1)
    assert parked(kit) == 1
    began = time.monotonic()
    kit.coordinator.bump(phase="open")
    thread.join(5)
    assert time.monotonic() - began < 1
    assert json.loads(found[0][1])["round"] == 2


@pytest.mark.parametrize("change", [{"lost": ["c1"]}, {"phase": "done"}, {"phase": "failed"}])
def test_a_parked_poll_is_answered_when_it_matters(kit: GatewayKit, change: dict[str, Any]) -> None:
    thread, found = in_thread(lambda: kit.get(f"{CURRENT}?client=c1&after=1&wait=20"))
    await_true(lambda: parked(kit) == 1)
    kit.coordinator.bump(**change)
    thread.join(5)
    assert found[0][0] == 200


def test_a_poll_without_news_ends_after_its_time(kit: GatewayKit) -> None:
    began = time.monotonic()
    status, raw, _ = kit.get(f"{CURRENT}?client=c1&after=1&wait=0.3")
    assert status == 200
    assert 0.3 <= time.monotonic() - began < 2
    assert json.loads(raw)["round"] == 1


@pytest.mark.parametrize(
    ("query", "status", "where"),
    [
        ("", 422, "client"),
        ("client=%00", 422, "client"),
        ("client=c1&after=x", 422, "after"),
        ("client=c1&after=1&wait=nan", 422, "wait"),
    ],
)
def test_a_poll_that_cannot_be_understood(
    kit: GatewayKit, query: str, status: int, where: str
) -> None:
    got, raw, _ = kit.get(f"{CURRENT}?{query}")
    assert (got, json.loads(raw)["where"]) == (status, where)
    assert kit.get("/v1/jobs/nope/rounds/current?client=c1")[0] == 404


def test_the_model_with_ranges_and_validators(kit: GatewayKit) -> None:
    assert kit.get(MODEL)[0] == 503
    put_model(kit, 7, 1)
    whole = document(SMALL, 7)
    status, raw, headers = kit.get(MODEL)
    assert (status, raw) == (200, whole)
    assert headers["ETag"] == f'"{JOB}-1"'
    assert headers["LIFL-Model-Version"] == "1"
    assert kit.request("HEAD", MODEL)[2]["Content-Length"] == str(len(whole))
    assert kit.request("HEAD", MODEL)[1] == b""
    for spec, expected in (("0-9", whole[:10]), ("100-", whole[100:]), ("-7", whole[-7:])):
        status, raw, headers = kit.get(MODEL, Range=f"bytes={spec}")
        assert (status, raw) == (206, expected)
        assert headers["Content-Range"].endswith(f"/{len(whole)}")
    assert kit.get(MODEL, Range="bytes=9999999-")[0] == 416
    assert kit.get(MODEL, **{"Range": "bytes=0-1", "If-Range": '"other"'})[0] == 200
    status, raw, headers = kit.get(MODEL, **{"If-None-Match": f'"{JOB}-1"'})
    assert (status, raw, headers["ETag"]) == (304, b"", f'"{JOB}-1"')
    assert json.loads(kit.get(f"{MODEL}?version=5")[1])["code"] == "version-not-there-yet"
    assert json.loads(kit.get(f"{MODEL}?version=0")[1])["code"] == "version-gone"


def test_a_reader_waits_for_a_model_to_come(kit: GatewayKit) -> None:
    put_model(kit, 7, 1)
    thread, found = in_thread(lambda: kit.get(f"{MODEL}?version=2&wait=20"))
    await_true(lambda: parked(kit) == 1)
    kit.publish(phase="closing")
    assert parked(kit) == 1
    began = time.monotonic()
    put_model(kit, 9, 2)
    thread.join(5)
    assert time.monotonic() - began < 1
    assert found[0][:2] == (200, document(SMALL, 9))
    began = time.monotonic()
    status, raw, _ = kit.get(f"{MODEL}?version=3&wait=0.3")
    assert (status, json.loads(raw)["code"]) == (404, "version-not-there-yet")
    assert 0.3 <= time.monotonic() - began < 2
    assert json.loads(kit.get(f"{MODEL}?version=3&wait=x")[1])["where"] == "wait"
    thread, found = in_thread(lambda: kit.get(f"{MODEL}?version=3&wait=20"))
    await_true(lambda: parked(kit) == 1)
    kit.coordinator.bump(phase="failed")
    thread.join(5)
    assert found[0][0] == 404


@pytest.mark.parametrize("path", [f"{MODEL}?version=2", f"{CURRENT}?client=c1&after=1"])
def test_who_waits_is_told_nothing_of_another_job_of_that_name(kit: GatewayKit, path: str) -> None:
    put_model(kit, 7, 1)
    thread, found = in_thread(lambda: kit.get(f"{path}&wait=20"))
    await_true(lambda: parked(kit) == 1)
    kit.coordinator.bump(auth_key="11" * 32, round=2, version=2)
    thread.join(5)
    assert found[0][0] == 404
    assert json.loads(found[0][1])["code"] == "no-such-job"


def test_an_old_model_is_freed_when_its_last_reader_has_gone(tmp_path: Path) -> None:
    from .gateway_kit import schema_of

    schema = schema_of(40)
    with gateway(tmp_path, schema, slots=3) as kit:
        ref = kit.pool.reserve(SlotKind.MODEL, 99, 0)
        size = 30_000_000
        kit.pool.seal(ref, 99, Seal(1, 0.0, 0, size))
        place = {"node": kit.node, "slot": ref.slot, "generation": ref.generation}
        kit.coordinator.bump(version=1, model=place)
        await_true(lambda: kit.request("HEAD", f"{MODEL}?version=1")[0] == 200)
        with kit.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.sendall(f"GET {MODEL} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            got = len(sock.recv(1000))
            kit.coordinator.bump(version=2, model=None)
            await_true(lambda: kit.get(MODEL)[0] == 503)
            kit.pool.retire(ref)
            assert kit.pool.find()
            while got < size:
                got += len(sock.recv(1 << 20))
        await_true(lambda: not kit.pool.find())


def test_a_model_of_another_node_is_fetched_once(tmp_path: Path) -> None:
    with gateway(tmp_path, node="node-0", auth=True) as first:
        place = put_model_with_auth(first)
        with gateway(tmp_path, node="node-1", auth=True) as second:
            upload = {"node-0": first.url, "node-1": second.url}
            second.coordinator.bump(version=1, model=place, upload=upload)
            token = auth.mint_client_token(KEY, JOB, "c1")
            bearer = {"Authorization": f"Bearer {token}"}
            await_true(lambda: second.get(f"{MODEL}?version=1", **bearer)[0] == 200)
            assert second.get(MODEL, **bearer)[1] == document(SMALL, 4)
            assert second.get(MODEL, **bearer)[1] == document(SMALL, 4)
            assert len(second.pool.find(kind=SlotKind.MODEL)) == 1
            second.coordinator.bump(version=2, model=None)
            await_true(lambda: not second.pool.find())


def put_model_with_auth(kit: GatewayKit) -> dict[str, Any]:
    ref = kit.pool.reserve(SlotKind.MODEL, 99, 0)
    start = kit.pool.geometry.meta_bytes - SMALL.float_start
    raw = document(SMALL, 4)
    kit.pool.slot_bytes(ref.slot)[start : start + len(raw)] = raw
    kit.pool.seal(ref, 99, Seal(1, 0.0, start, len(raw)))
    place = {"node": kit.node, "slot": ref.slot, "generation": ref.generation}
    kit.coordinator.bump(version=1, model=place)
    token = auth.mint_submitter_token(KEY, JOB)
    await_true(lambda: kit.get(f"{MODEL}?version=1", Authorization=f"Bearer {token}")[0] == 200)
    return place


def test_tokens_are_asked_for_and_checked(tmp_path: Path) -> None:
    with gateway(tmp_path, auth=True) as kit:
        mint = auth.mint_client_token
        tokens = {
            "": 401,
            "nonsense": 401,
            mint(KEY, JOB, "c1", lifetime=-10): 401,
            mint(bytes(32), JOB, "c1"): 401,
            mint(KEY, "other", "c1"): 403,
            mint(KEY, JOB, "c2"): 403,
            auth.mint_submitter_token(KEY, JOB): 403,
            mint(KEY, JOB, "c1"): 202,
        }
        for token, status in tokens.items():
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            got, told = kit.post(document(SMALL), **headers)
            assert got == status, told
            poll = kit.get(f"{CURRENT}?client=c1", **headers)
            assert poll[0] == (200 if status == 202 else status)
        assert "WWW-Authenticate" in kit.get(f"{CURRENT}?client=c1")[2]
        transfer = f"/internal/v1/transfers/{JOB}/1/5"
        assert kit.request("PUT", transfer, b"x", {"Authorization": f"Bearer {token}"})[0] in (
            401,
            403,
        )
        assert kit.get("/healthz")[0] == 200


def test_management_goes_to_the_coordinator_with_the_callers_own_token(kit: GatewayKit) -> None:
    seen = []

    def show(method: str, path: str, asked: Any) -> tuple[int, Any]:
        seen.append((method, path, asked))
        return 201, {"job": "new"}

    kit.coordinator.rules["POST /v1/jobs"] = show
    status, raw, _ = kit.request(
        "POST", "/v1/jobs?x=1", json.dumps({"kind": "F"}), {"Content-Type": "application/json"}
    )
    assert (status, json.loads(raw)) == (201, {"job": "new"})
    assert seen == [("POST", "/v1/jobs?x=1", {"kind": "F"})]


def test_an_agents_restart_is_survived(kit: GatewayKit) -> None:
    old = kit.agent
    old.close()
    assert kit.post(document(SMALL), client="meanwhile")[0] in (202, 503)
    kit.agent = FakeAgent(old.path, kit.pool)
    await_true(lambda: kit.get("/readyz")[0] == 200)
    await_true(lambda: kit.post(document(SMALL, 2), client="after")[0] == 202)


def test_a_coordinators_restart_is_survived(kit: GatewayKit) -> None:
    port = kit.coordinator.server.server_address[1]
    kit.coordinator.close()
    assert kit.get(f"{CURRENT}?client=c1")[0] == 200
    assert kit.post(document(SMALL))[0] == 503
    assert not kit.pool.find(state=SlotState.SEALED)
    kit.coordinator = FakeCoordinator(SMALL, kit.node, kit.url, port=port)
    kit.coordinator.bump(round=3)
    await_true(lambda: json.loads(kit.get(f"{CURRENT}?client=c1")[1])["round"] == 3)
    assert kit.post(document(SMALL), round_number=3)[0] == 202


def test_sigterm_answers_parked_polls_and_lets_uploads_finish(kit: GatewayKit) -> None:
    thread, found = in_thread(lambda: kit.get(f"{CURRENT}?client=c1&after=1&wait=20"))
    await_true(lambda: parked(kit) == 1)
    sent = document(SMALL)
    with kit.connect() as idle, kit.connect() as sock:
        path = f"/v1/jobs/{JOB}/rounds/1/updates"
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nLIFL-Client: c2\r\nLIFL-Num-Samples: 1\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n".encode()
            + sent[:100]
        )
        await_true(kit.pool.find)
        began = time.monotonic()
        assert kit.process is not None
        kit.process.terminate()
        thread.join(3)
        assert found[0][0] == 200
        assert time.monotonic() - began < 2
        assert idle.recv(10) == b""
        sock.sendall(sent[100:])
        assert sock.recv(4096).startswith(b"HTTP/1.1 202")
    assert kit.terminate() == 0


def test_slow_headers_get_a_problem(tmp_path: Path) -> None:
    with gateway(tmp_path, LIFL_HEADER_SECONDS="0.5") as kit, kit.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert sock.recv(4096).startswith(b"HTTP/1.1 408")


PROBE = """
import json, select, socket, sys, time
found = []
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        began = time.monotonic()
        sock.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        got = b""
        while not got.endswith(b"}\\n"):
            got += sock.recv(4096)
        found.append(time.monotonic() - began)
print(json.dumps(found))
"""


def test_two_thousand_polling_clients_leave_probes_alone(kit: GatewayKit) -> None:
    """Three rounds open while 2,000 clients poll and poll again; healthz p99 < 100 ms."""
    clients, rounds = 2000, 3
    allow_most_files()  # the clients are this process
    selector = selectors.DefaultSelector()
    state: dict[socket.socket, list[Any]] = {}

    def ask(sock: socket.socket, name: str, after: int) -> None:
        line = f"GET {CURRENT}?client={name}&after={after}&wait=25 HTTP/1.1\r\nHost: x\r\n\r\n"
        sock.sendall(line.encode())

    command = [sys.executable, "-c", PROBE, str(kit.port)]
    prober = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        for i in range(clients):
            sock = kit.connect()
            state[sock] = [f"c{i}", 1, b""]
            selector.register(sock, selectors.EVENT_READ)
            ask(sock, f"c{i}", 1)
        await_true(lambda: parked(kit) == clients, 30)
        for number in range(2, 2 + rounds):
            kit.coordinator.bump(round=number, assignment=number, version=number - 1)
            waiting = clients
            deadline = time.monotonic() + 30
            while waiting:
                assert time.monotonic() < deadline, f"{waiting} clients still wait"
                for key, _ in selector.select(1):
                    sock = key.fileobj  # type: ignore[assignment]
                    entry = state[sock]
                    entry[2] += sock.recv(65536)
                    if entry[2].endswith(b"}\n"):
                        assert b'"round":%d' % number in entry[2]
                        entry[1:] = [number, b""]
                        ask(sock, entry[0], number)
                        waiting -= 1
            await_true(lambda: parked(kit) == clients, 30)
    finally:
        told, _ = prober.communicate(timeout=10)
        for sock in state:
            sock.close()
        selector.close()
    latencies = json.loads(told)
    assert len(latencies) > 100
    assert statistics.quantiles(latencies, n=100)[98] < 0.1
