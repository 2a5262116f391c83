"""What strangers and broken clients may send: each gets a problem document, and no more.

Every class is one round of a real job. Client c0's update is in before the attacks; when they
are over the others' follow, and the model must be exactly the honest clients' mean, the pool
as full as before and the gateway no larger.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import itertools
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import ml_dtypes
import numpy as np
import psutil
import pytest

from lifl import auth
from lifl.client.http import HttpClient
from lifl.errors import Unavailable
from lifl.platform import doctor

from .kit import (
    Answer,
    Arrays,
    Job,
    Platform,
    answer_of,
    document,
    platform,
    read_answer,
    samples_of,
    update_of,
    wait_for,
)

CLIENTS = 4
ATTACKER = 3
"""Its token is good and the round has chosen it, so nothing but its input is wrong."""
IDLE = 1.0
"""Seconds that the gateway waits for headers, and for a silent body."""
CONNECTIONS = 300
"""How many an attack opens at most."""
GROWTH = 4 << 20
"""Bytes of private memory that the gateway may gain over a class of attacks."""


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    dataplane, _ = doctor.default_dataplane()
    idle = str(IDLE)
    with platform(dataplane=dataplane, LIFL_HEADER_SECONDS=idle, LIFL_BODY_IDLE=idle) as up:
        yield up


@pytest.fixture(scope="module")
def job(running: Platform) -> Job:
    job = running.submit("target", clients=CLIENTS, slots=32)
    number = job.open_round()["round"]
    for _ in range(3):  # twice what any attack does brings the gateway to its full size
        with slow_uploads(job, number, 2 * CONNECTIONS) as socks:
            job.deliver_all(number, range(ATTACKER))
            assert {read_answer(sock).status for sock in socks} <= {408, 409, 503}
    at_rest(job)
    job.deliver(ATTACKER, number)
    job.check(number)
    return job


@contextlib.contextmanager
def slow_uploads(job: Job, number: int, count: int = CONNECTIONS) -> Iterator[list[socket.socket]]:
    """Open ``count`` connections: uploads of the attacker's, and requests that end too early.

    Every other one ends within its headers. Yields the uploads' connections.
    """
    body = document(update_of(ATTACKER, number))
    head = job.head(ATTACKER, number, len(body))
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(job.raw()) for _ in range(count)]
        for i, sock in enumerate(socks):
            sock.sendall(head + body[:9] if i % 2 else head[:40])
        yield socks[1::2]


@dataclass
class Attack:
    """One round under attack."""

    job: Job
    number: int

    def post(self, body: bytes, **headers: str | None) -> Answer:
        """POST as the attacker, header names with ``_`` for ``-``."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.job.request(ATTACKER, self.number, body, headers=fields)

    def raw(self, *pieces: bytes) -> Answer:
        """Send bytes that no HTTP library would, and read the answer."""
        with self.job.raw() as sock:
            for piece in pieces:
                sock.sendall(piece)
            return read_answer(sock)

    def head(self, length: int | None, *extra: str) -> bytes:
        """Return the head of an upload by the attacker."""
        return self.job.head(ATTACKER, self.number, length, *extra)

    @property
    def honest(self) -> Arrays:
        """The arrays the attacker's client would send if it were honest."""
        return update_of(ATTACKER, self.number)


def gateway_bytes(on: Platform) -> int:
    """Return the gateway worker's private memory."""
    (worker,) = psutil.Process(on.process("gateway-0").pid).children()
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("RssAnon")).split()[1]) << 10


def at_rest(job: Job) -> None:
    """Wait until the pool holds the model and sums: every slot in writing has taken inputs."""

    def nothing_else() -> bool:
        u = job.platform.usage(job.name)
        return u.sealed == 1 and u.retired == 0 and u.writing <= u.taken <= CLIENTS and u.taken > 0

    try:
        wait_for(nothing_else, "the pool to be at rest", 10)
    except AssertionError:
        pytest.fail(f"slots are not given back: {job.platform.usage(job.name)}")


@pytest.fixture(scope="class")
def attack(running: Platform, job: Job) -> Iterator[Attack]:
    number = job.open_round(job.status()["version"])["round"]
    job.deliver(0, number)
    at_rest(job)
    memory = gateway_bytes(running)
    yield Attack(job, number)
    at_rest(job)
    assert gateway_bytes(running) - memory < GROWTH
    job.deliver_all(number)
    job.check(number)


def refused(answer: Answer, status: int, code: str, where: str = "") -> None:
    """Check that an answer is a problem document that says what and where."""
    assert (answer.status, answer.code) == (status, code), answer
    content_type = {k.lower(): v for k, v in answer.headers.items()}["content-type"]
    assert content_type == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["type"].endswith(code)
    assert answer.json["title"]
    assert len(answer.json["detail"]) > 10
    assert answer.json.get("where", "").startswith(where), answer.json
    if where:
        assert answer.json["where"]


# -- documents ------------------------------------------------------------------------------


def tensors_of(raw: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def with_header(header: bytes | object, data: bytes) -> bytes:
    """Return a document with any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw + data


def edited(**changes: Any) -> Callable[[Arrays], bytes]:
    """Return how to make a document whose ``mark`` entry is changed."""

    def make(arrays: Arrays) -> bytes:
        entries, data = tensors_of(document(arrays))
        entries["mark"] |= changes
        return with_header(entries, data)

    return make


def replaced(header: bytes | object) -> Callable[[Arrays], bytes]:
    return lambda arrays: with_header(header, tensors_of(document(arrays))[1])


def gap(arrays: Arrays) -> bytes:
    entries, data = tensors_of(document(arrays))
    entries["w"]["data_offsets"] = [o + 8 for o in entries["w"]["data_offsets"]]
    return with_header(entries, data + bytes(8))


def twice(arrays: Arrays) -> bytes:
    entries, data = tensors_of(document(arrays))
    text = json.dumps(entries)
    return with_header((text[:-1] + ',"w":' + json.dumps(entries["w"]) + "}").encode(), data)


def without(name: str) -> Callable[[Arrays], bytes]:
    return lambda arrays: document({k: v for k, v in arrays.items() if k != name})


def with_more(**more: Any) -> Callable[[Arrays], bytes]:
    return lambda arrays: document(arrays | more)


def huge_header(arrays: Arrays) -> bytes:
    return with_header(b'{"mark":' + b" " * (8 << 20) + b"{}}", b"")


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DOCUMENTS: dict[str, tuple[Callable[[Arrays], bytes], int, str, str]] = {
    "empty": (lambda _: b"", 422, "truncated", ""),
    "seven bytes": (lambda _: b"\0" * 7, 422, "truncated", ""),
    "cut in the header": (lambda a: document(a)[:60], 422, "header-length", "bytes 0-7"),
    "cut in the data": (lambda a: document(a)[:-4], 422, "bad-offsets", ""),
    "four bytes too many": (lambda a: document(a) + bytes(4), 422, "bad-offsets", "end of data"),
    "header of 2^63": (lambda _: b"\xff" * 7 + b"\x7f" + bytes(99), 422, "header-length", "bytes"),
    "header of 2^64": (lambda _: b"\xff" * 8 + bytes(99), 422, "header-length", "bytes 0-7"),
    "header of nothing": (lambda _: bytes(4000), 422, "malformed-header", "header"),
    "a huge header": (huge_header, 413, "too-large", "Content-Length"),
    "pickle": (lambda _: b"\x80\x04\x95" + bytes(500), 422, "header-length", "bytes 0-7"),
    "no JSON": (replaced(b"{" * 64), 422, "malformed-header", "header"),
    "no UTF-8": (replaced(b'{"\xff\xfe": 1}'), 422, "malformed-header", "header"),
    "deep JSON": (replaced(b'{"a":' + b"[" * 9000), 422, "malformed-header", "header"),
    "a list": (replaced([1, 2]), 422, "malformed-header", "header"),
    "NaN in the header": (replaced(b'{"a": NaN}'), 422, "malformed-header", "header"),
    "no tensors": (replaced({}), 422, "bad-offsets", "end of data"),
    "an entry of nothing": (replaced({"mark": {}}), 422, "malformed-header", "mark"),
    "an entry too much": (edited(extra=1), 422, "malformed-header", "mark"),
    "metadata that is none": (
        replaced({"__metadata__": 7, "mark": ENTRY}),
        422,
        "malformed-header",
        "__metadata__",
    ),
    "a name that is no Unicode": (
        replaced(b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}"),
        422,
        "malformed-header",
        "",
    ),
    "a name twice": (twice, 422, "duplicate-name", "w"),
    "overlapping tensors": (edited(data_offsets=[4, 260]), 422, "bad-offsets", ""),
    "a gap": (gap, 422, "bad-offsets", "w"),
    "an end before its begin": (edited(data_offsets=[264, 8]), 422, "bad-offsets", "mark"),
    "an end behind the data": (edited(data_offsets=[8, 1 << 40]), 422, "bad-offsets", "mark"),
    "a negative begin": (edited(data_offsets=[-8, 248]), 422, "bad-offsets", "mark"),
    "a begin of true": (edited(data_offsets=[True, 264]), 422, "bad-offsets", "mark"),
    "a begin of 8.0": (edited(data_offsets=[8.0, 264]), 422, "bad-offsets", "mark"),
    "one offset": (edited(data_offsets=[8]), 422, "bad-offsets", "mark"),
    "a shape that overflows": (edited(shape=[1 << 32, 1 << 32]), 422, "bad-offsets", "mark"),
    "a shape of -64": (edited(shape=[-64]), 422, "malformed-header", "mark"),
    "a shape of dimensions": (edited(shape=[1] * 1000), 422, "malformed-header", "mark"),
    "a shape of words": (edited(shape=["64"]), 422, "malformed-header", "mark"),
    "another shape": (edited(shape=[8, 8]), 422, "wrong-shape", "mark"),
    "integers for floats": (edited(dtype="I32"), 422, "wrong-dtype", "mark"),
    "float64": (edited(dtype="F64"), 422, "unknown-dtype", "mark"),
    "a dtype of 7": (edited(dtype=7), 422, "unknown-dtype", "mark"),
    "a tensor too few": (without("w"), 422, "missing-tensor", "w"),
    "no integers": (without("steps"), 422, "missing-tensor", "steps"),
    "a tensor too many": (with_more(x=np.ones(3, np.float32)), 422, "unknown-tensor", "x"),
    "short integers": (with_more(steps=np.zeros(1, np.int32)), 422, "wrong-dtype", "steps"),
    "a longer tensor": (with_more(mark=np.zeros(65, np.float32)), 422, "wrong-shape", "mark"),
}


class TestDocuments:
    @pytest.mark.parametrize("case", DOCUMENTS)
    def test_a_document_that_is_no_update(self, attack: Attack, case: str) -> None:
        make, status, code, where = DOCUMENTS[case]
        refused(attack.post(make(attack.honest)), status, code, where)

    def test_a_digest_of_other_bytes(self, attack: Attack) -> None:
        digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
        answer = attack.post(document(attack.honest), Content_Digest=f"sha-256=:{digest}:")
        refused(answer, 400, "digest-differs", "Content-Digest")


FIRST, MIDDLE, LAST = ("mark", 0), ("w", 480), ("whole", 959)


class TestValues:
    @pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("at", [FIRST, MIDDLE, LAST])
    def test_one_element_that_is_not_finite(
        self, attack: Attack, dtype: Any, value: float, at: tuple[str, int]
    ) -> None:
        arrays = attack.honest
        arrays[at[0]][at[1]] = value
        cast = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in arrays.items()}
        refused(attack.post(document(cast)), 422, "not-finite", f"{at[0]}[{at[1]}]")

    def test_a_nan_in_a_chunked_body(self, attack: Attack) -> None:
        arrays = attack.honest
        arrays["whole"][-1] = np.nan
        raw = document(arrays)
        head = attack.head(None, "Transfer-Encoding: chunked")
        answer = attack.raw(head, chunk(raw[:100]), chunk(raw[100:]), chunk(b""))
        refused(answer, 422, "not-finite", "whole[959]")

    def test_a_signalling_nan(self, attack: Attack) -> None:
        raw = document(attack.honest)
        signalling = raw[:-4] + struct.pack("<I", 0x7F800001)
        refused(attack.post(signalling), 422, "not-finite", "whole[959]")


# -- headers ----------------------------------------------------------------------------------

SAMPLES = ["-1", "0", "1.5", "1e3", "NaN", "inf", "0x10", "+5", "", "٣", "1 2", "1,1"]
SAMPLES += [str((1 << 40) + 1), str(1 << 64), "9" * 400]


class TestHeaders:
    @pytest.mark.parametrize("samples", SAMPLES)
    def test_a_sample_count_that_is_none(self, attack: Attack, samples: str) -> None:
        body = document(attack.honest)
        head = attack.job.head(ATTACKER, attack.number, len(body), samples="SAMPLES")
        answer = attack.raw(head.replace(b"SAMPLES", samples.encode()), body)
        refused(answer, 422, "bad-number", "LIFL-Num-Samples")

    @pytest.mark.parametrize(
        ("headers", "status", "code", "where"),
        [
            ({"LIFL_Num_Samples": None}, 422, "bad-number", "LIFL-Num-Samples"),
            ({"LIFL_Base_Version": "-1"}, 422, "bad-number", "LIFL-Base-Version"),
            ({"LIFL_Base_Version": "0"}, 409, "wrong-base-version", "LIFL-Base-Version"),
            ({"LIFL_Base_Version": "99"}, 409, "wrong-base-version", "LIFL-Base-Version"),
            ({"LIFL_Update_Type": "gradient"}, 422, "wrong-update-type", "LIFL-Update-Type"),
            ({"LIFL_Update_Type": "delta"}, 422, "wrong-update-type", "LIFL-Update-Type"),
            ({"LIFL_Metrics": "{"}, 422, "bad-metrics", "LIFL-Metrics"),
            ({"LIFL_Metrics": '{"a":"' + "x" * 5000 + '"}'}, 422, "bad-metrics", "LIFL-Metrics"),
            ({"Content_Digest": "sha-256=:AA=:"}, 400, "bad-digest", "Content-Digest"),
            ({"Content_Encoding": "gzip"}, 415, "content-encoding", "Content-Encoding"),
            ({"Content_Type": "application/json"}, 415, "media-type", "Content-Type"),
        ],
    )
    def test_a_header_that_is_wrong(
        self, attack: Attack, headers: dict[str, str | None], status: int, code: str, where: str
    ) -> None:
        refused(attack.post(document(attack.honest), **headers), status, code, where)

    def test_two_sample_counts(self, attack: Attack) -> None:
        body = document(attack.honest)
        head = attack.head(len(body), "LIFL-Num-Samples: 1000000")
        refused(attack.raw(head, body), 422, "bad-number", "LIFL-Num-Samples")

    def test_headers_without_end(self, attack: Attack) -> None:
        many = [f"X-{i}: {i}" for i in range(200)]
        refused(attack.raw(attack.head(5, *many)), 431, "headers-too-large")
        refused(attack.raw(attack.head(5, "X: " + "x" * 20000)), 431, "headers-too-large")

    def test_no_http(self, attack: Attack) -> None:
        refused(attack.raw(b"\x16\x03\x01\x02\0\x01\0\r\n\r\n"), 400, "malformed-request")
        refused(attack.raw(b"GET / HTTP/9.9\r\n\r\n"), 400, "malformed-request")


# -- who may ------------------------------------------------------------------------------------


def forged(job: Job, **claims: Any) -> str:
    now = time.time()
    said = {"iss": "lifl", "aud": job.name, "sub": f"c{ATTACKER}", "scope": "client"}
    said |= {"iat": int(now), "exp": int(now + 60)} | claims
    return jwt.encode(said, job.key, algorithm="HS256")


def unsigned(job: Job) -> str:
    head, body, _ = forged(job).split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    return f"{head}.{body}."


class TestTokens:
    @pytest.mark.parametrize(
        ("make", "status", "code"),
        [
            (lambda job: None, 401, "token-missing"),
            (lambda job: "", 401, "token-missing"),
            (lambda job: "a.b.c", 401, "token-invalid"),
            (lambda job: auth.mint_client_token(bytes(32), job.name, "c3"), 401, "token-invalid"),
            (lambda job: job.token("c3")[:-2] + "AA", 401, "token-invalid"),
            (unsigned, 401, "token-invalid"),
            (lambda job: forged(job, exp=int(time.time()) - 1), 401, "token-expired"),
            (lambda job: forged(job, iss="x"), 401, "token-invalid"),
            (lambda job: forged(job, nbf=int(time.time()) + 999), 401, "token-invalid"),
            (lambda job: forged(job, aud="other"), 403, "token-other-job"),
            (lambda job: auth.mint_submitter_token(job.key, job.name), 403, "token-scope"),
            (lambda job: job.token("c2"), 403, "token-other-client"),
        ],
    )
    def test_a_token_that_does_not_fit(
        self, attack: Attack, make: Callable[[Job], str | None], status: int, code: str
    ) -> None:
        token = make(attack.job)
        header = None if token is None else f"Bearer {token}"
        answer = attack.post(document(attack.honest), Authorization=header)
        refused(answer, status, code, "Authorization")
        fields = {k.lower() for k in answer.headers}
        assert ("www-authenticate" in fields) == (status == 401)

    def test_a_client_who_says_it_is_another(self, attack: Attack) -> None:
        for name in ("c2", "", "../c3", "c3\u00e9"):
            body = document(attack.honest)
            answer = attack.post(body, LIFL_Client=name)
            assert answer.status == 403, answer
            refused(answer, 403, "token-other-client", "Authorization")

    def test_the_platforms_own_doors_are_closed_to_clients(self, attack: Attack) -> None:
        job = attack.job
        token = job.token("c3")
        coordinator = str(job.platform.state["coordinator_url"])
        transfer = f"/internal/v1/transfers/{job.name}/1/1"
        for base, method, path in (
            (job.platform.url, "POST", "/v1/jobs"),
            (job.platform.url, "GET", "/v1/jobs"),
            (job.platform.url, "GET", f"/v1/jobs/{job.name}"),
            (job.platform.url, "PUT", f"/v1/jobs/{job.name}/model"),
            (job.platform.url, "POST", f"/v1/jobs/{job.name}/stop"),
            (job.platform.url, "PUT", transfer),
            (coordinator, "GET", "/internal/v1/watch"),
            (coordinator, "POST", "/internal/v1/claims"),
            (coordinator, "POST", "/internal/v1/updates"),
            (coordinator, "DELETE", "/internal/v1/nodes/node-0"),
            (coordinator, "PUT", f"/internal/v1/jobs/{job.name}/plan"),
        ):
            for bearer in (None, token, auth.mint_submitter_token(bytes(32), job.name)):
                http = HttpClient(base, bearer)
                body = None if method == "GET" else b"{}"
                got = http.request(method, path, body=body)
                http.close()
                answer = answer_of(got.status, dict(got.headers), got.data)
                assert answer.status in (401, 403), (method, path, answer)
                refused(answer, answer.status, answer.code)


# -- which round ----------------------------------------------------------------------------------


class TestRounds:
    def test_a_job_that_is_not_there(self, attack: Attack) -> None:
        other = Job(attack.job.platform, "nobody", attack.job.key, 1)
        answer = other.request(0, 1, b"x")
        refused(answer, 404, "no-such-job", "job")

    def test_an_early_round(self, attack: Attack) -> None:
        for number in (attack.number + 1, attack.number + 1000):
            answer = attack.job.request(ATTACKER, number, document(attack.honest))
            refused(answer, 409, "wrong-round", "round")

    def test_a_round_that_is_no_number(self, attack: Attack) -> None:
        for number in ("x", "-1", "1.0", "9" * 30):
            head = attack.head(4).replace(
                f"/rounds/{attack.number}/".encode(), f"/rounds/{number}/".encode()
            )
            refused(attack.raw(head, b"body"), 422, "bad-number", "round")

    def test_an_update_that_was_counted_before_sent_again_later(self, attack: Attack) -> None:
        """The last round's answer is repeated; an older round's update is refused."""
        job, last = attack.job, attack.number - 1
        again = job.post(ATTACKER, last)
        assert (again.status, again.json["duplicate"]) == (202, True)
        refused(job.post(ATTACKER, 1), 409, "wrong-round", "round")
        old = document(update_of(ATTACKER, last))
        headers = {"LIFL-Base-Version": str(last - 1)}
        answer = job.request(ATTACKER, attack.number, old, headers=headers)
        refused(answer, 409, "wrong-base-version", "LIFL-Base-Version")

    def test_a_client_that_was_not_chosen(self, attack: Attack) -> None:
        answer = attack.job.post(9, attack.number)
        refused(answer, 409, "not-selected")


class TestDuplicates:
    def test_the_first_counts(self, attack: Attack) -> None:
        job, number = attack.job, attack.number
        first = job.post(0, number)
        assert (first.status, first.json["duplicate"]) == (202, True)
        assert job.post(0, number).json == first.json
        other = document(update_of(0, number + 1))
        refused(job.request(0, number, other), 409, "duplicate-differs")
        refused(job.request(0, number, other, samples=1), 409, "duplicate-differs")
        assert job.post(0, number).json == first.json

    def test_one_update_from_many_connections_at_once(self, attack: Attack) -> None:
        def post(_: int) -> Answer:
            return attack.job.post(1, attack.number)

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(post, range(48)))
        taken = [a.json["serial"] for a in answers if a.status == 202]
        assert len(set(taken)) == 1, answers
        for answer in answers:
            if answer.status != 202:
                assert answer.code in ("claim-gone", "superseded"), answer
                refused(answer, 409, answer.code)


# -- framing -------------------------------------------------------------------------------


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}".encode() + b"\r\n" + data + b"\r\n"


CHUNKED = "Transfer-Encoding: chunked"


class TestFraming:
    def test_a_length_that_is_too_long(self, attack: Attack) -> None:
        body = document(attack.honest)
        for missing in (1, 2000):
            began = time.monotonic()
            answer = attack.raw(attack.head(len(body) + missing), body)
            assert answer.status in (408, 422), answer
            refused(answer, answer.status, "body-idle" if answer.status == 408 else "bad-offsets")
            assert time.monotonic() - began < IDLE + 2

    def test_a_client_that_hangs_up(self, attack: Attack) -> None:
        body = document(attack.honest)
        for sent in (0, 4, 100, len(body) - 1):
            with attack.job.raw() as sock:
                sock.sendall(attack.head(len(body)) + body[:sent])
                sock.shutdown(socket.SHUT_WR)
                refused(read_answer(sock), 400, "truncated")

    def test_a_length_that_is_too_short(self, attack: Attack) -> None:
        """The rest is no request, and must not be taken for one."""
        body = document(attack.honest)
        with attack.job.raw() as sock:
            sock.sendall(attack.head(len(body) - 8) + body)
            refused(read_answer(sock), 422, "bad-offsets")
            rest = read_answer(sock)
        assert rest.status in (0, 400)

    @pytest.mark.parametrize(
        ("length", "status", "code"),
        [
            ("-5", 400, "malformed-request"),
            ("5x", 400, "malformed-request"),
            ("+5", 400, "malformed-request"),
            ("0x5", 400, "malformed-request"),
            ("5, 6", 400, "malformed-request"),
            ("", 400, "malformed-request"),
            ("9" * 18, 413, "too-large"),
            ("9" * 40, 413, "too-large"),
            (str(64 << 20), 413, "too-large"),
        ],
    )
    def test_a_length_that_is_none(
        self, attack: Attack, length: str, status: int, code: str
    ) -> None:
        head = attack.head(None, f"Content-Length: {length}")
        refused(attack.raw(head, b"hello"), status, code)

    def test_no_length(self, attack: Attack) -> None:
        refused(attack.raw(attack.head(None)), 411, "length-required")

    def test_two_lengths(self, attack: Attack) -> None:
        head = attack.head(5, "Content-Length: 6")
        refused(attack.raw(head, b"hello!"), 400, "malformed-request")
        head = attack.head(5, CHUNKED)
        refused(attack.raw(head, chunk(b"hello"), chunk(b"")), 400, "malformed-request")

    def test_other_codings(self, attack: Attack) -> None:
        head = attack.head(None, "Transfer-Encoding: gzip, chunked")
        answer = attack.raw(head, chunk(b"hello"), chunk(b""))
        refused(answer, 501, "unknown-transfer-coding", "Transfer-Encoding")

    @pytest.mark.parametrize(
        "body",
        [
            b"zz\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"\r\n\r\n",
            b"5;" + b"x" * 100_000,
            b"2000\r\n" + bytes(0x2000) + b"no end of a chunk\r\n",
        ],
    )
    def test_chunks_that_are_none(self, attack: Attack, body: bytes) -> None:
        answer = attack.raw(attack.head(None, CHUNKED), chunk(document(attack.honest)[:64]), body)
        assert answer.status in (400, 413), answer
        refused(answer, answer.status, answer.code)

    def test_a_chunk_of_all_there_is(self, attack: Attack) -> None:
        body = document(attack.honest)
        head = attack.head(None, CHUNKED)
        answer = attack.raw(head, b"ffffffffffffffff\r\n", body)
        assert answer.status in (400, 408, 413), answer
        refused(answer, answer.status, answer.code)

    def test_chunks_without_end(self, attack: Attack) -> None:
        body, junk = document(attack.honest), chunk(bytes(1 << 20))
        with attack.job.raw() as sock:
            sock.sendall(attack.head(None, CHUNKED) + chunk(body))
            for _ in range(64):
                sock.sendall(junk)
            sock.sendall(chunk(b""))
            refused(read_answer(sock), 413, "too-large", "Content-Length")

    def test_chunks_cut_short(self, attack: Attack) -> None:
        body = document(attack.honest)
        with attack.job.raw() as sock:
            sock.sendall(attack.head(None, CHUNKED) + chunk(body))
            sock.shutdown(socket.SHUT_WR)
            refused(read_answer(sock), 400, "truncated")

    def test_chunks_that_are_right(self, attack: Attack) -> None:
        """An honest update in chunks of every size counts like any other."""
        body = document(update_of(1, attack.number))
        samples = str(samples_of(1))
        head = attack.job.head(1, attack.number, None, CHUNKED, samples=samples)
        sizes = [1, 2, 5, 8, 100, 3000]
        cuts = [0, *np.cumsum(sizes).tolist(), len(body)]
        pieces = [chunk(body[a:b]) for a, b in itertools.pairwise(cuts)]
        answer = attack.raw(head, *pieces, chunk(b""))
        assert (answer.status, answer.json["duplicate"]) == (202, False)

    def test_large_bodies_leave_no_trace(self, attack: Attack, running: Platform) -> None:
        body = bytes(8 << 20)
        attack.post(body)
        before = gateway_bytes(running)
        for _ in range(20):
            refused(attack.post(body), 413, "too-large", "Content-Length")
        assert gateway_bytes(running) - before < GROWTH


# -- slowness ------------------------------------------------------------------------------


def drip(sock: socket.socket, data: bytes, pause: float) -> Answer:
    """Send byte by byte until an answer comes."""
    sock.settimeout(pause)
    for i in range(len(data)):
        try:
            sock.sendall(data[i : i + 1])
            if sock.recv(1, socket.MSG_PEEK):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    sock.settimeout(10)
    return read_answer(sock)


class TestSlowness:
    def test_headers_that_drip(self, attack: Attack) -> None:
        began = time.monotonic()
        with attack.job.raw() as sock:
            refused(drip(sock, attack.head(5), 0.05), 408, "headers-too-slow")
        assert time.monotonic() - began < 3 * IDLE

    @pytest.mark.parametrize("framing", ["plain", "chunked"])
    def test_a_body_that_drips(self, attack: Attack, framing: str) -> None:
        body = document(attack.honest)
        began = time.monotonic()
        with attack.job.raw() as sock:
            if framing == "plain":
                sock.sendall(attack.head(len(body)))
            else:
                sock.sendall(attack.head(None, CHUNKED))
                body = chunk(body)
            refused(drip(sock, body, 0.05), 408, "body-too-slow")
        assert time.monotonic() - began < 6 * IDLE

    @pytest.mark.parametrize("sent", [0, 4, 500])
    def test_a_body_that_stops(self, attack: Attack, sent: int) -> None:
        body = document(attack.honest)
        began = time.monotonic()
        answer = attack.raw(attack.head(len(body)), body[:sent])
        refused(answer, 408, "body-too-slow" if answer.code == "body-too-slow" else "body-idle")
        assert IDLE * 0.9 < time.monotonic() - began < 3 * IDLE

    def test_three_hundred_at_once_stop_nobody_else(self, attack: Attack) -> None:
        """Far more than there are slots: the honest clients' updates come through meanwhile.

        All are one client's, and its latest upload ends the one before.
        """
        with slow_uploads(attack.job, attack.number) as socks:
            began = time.monotonic()
            attack.job.deliver(2, attack.number)
            assert time.monotonic() - began < IDLE
            codes = collections.Counter(read_answer(sock).code for sock in socks)
        assert codes["superseded"] > 0
        assert codes["body-idle"] <= 1, codes
        assert codes.keys() <= {"superseded", "try-again", "claim-gone", "body-idle"}


def test_a_stranger_who_sends_noise_meets_a_gateway_that_serves(running: Platform) -> None:
    """Random bytes on a hundred connections; probes are answered before and after."""
    rng = np.random.default_rng(7)
    host, port = running.url.removeprefix("http://").split(":")
    for _ in range(100):
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            noise = rng.bytes(int(rng.integers(1, 4000)))
            try:
                sock.sendall(noise + b"\r\n\r\n")
                answer = read_answer(sock)
            except ConnectionError:
                continue
            assert answer.status in (0, 400, 408, 414, 431, 501), (noise, answer)
    http = HttpClient(running.url)
    assert http.request("GET", "/healthz").status == 200
    http.close()
    try:
        HttpClient(running.url).json("GET", "/readyz")
    except Unavailable:
        pytest.fail(running.logs())
