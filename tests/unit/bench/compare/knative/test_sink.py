"""Means and dead letters over HTTP, as Brokers send them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from bench.compare.knative.sink import Sink, Undelivered


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink("127.0.0.1") as found:
        yield found


def post(url: str, body: object, subject: str, **more: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    heads = {"ce-id": "1", "ce-type": "dev.lifl.mean", "Ce-Subject": subject, **more}
    chunked = not isinstance(body, bytes)
    connection.request("POST", parts.path, body, heads, encode_chunked=chunked)  # type: ignore[arg-type]
    answer = connection.getresponse()
    assert answer.read() == b""  # a body would be a new event
    connection.close()
    return answer.status


def soon() -> float:
    return time.monotonic() + 10.0


def test_a_mean_with_a_length(sink: Sink) -> None:
    assert post(sink.means, b"x" * 3_000_000, "run.1", **{"ce-liflsamples": "21.0"}) == 202
    found = sink.mean("run.1", soon())
    assert found.document == b"x" * 3_000_000
    assert found.about["liflsamples"] == "21.0"
    assert found.at <= time.monotonic()


def test_a_mean_in_chunks(sink: Sink) -> None:
    assert post(sink.means, iter([b"abc", b"d" * 70_000]), "run.1") == 202
    assert sink.mean("run.1", soon()).document == b"abc" + b"d" * 70_000


def test_means_of_rounds_that_were_given_up_are_passed_over(sink: Sink) -> None:
    post(sink.means, b"old", "run.1")
    post(sink.means, b"new", "run.2")
    assert sink.mean("run.2", soon()).document == b"new"


def test_what_the_broker_gave_up_ends_the_wait(sink: Sink) -> None:
    post(sink.dead_letters, b"u", "run.1.leaf-0", **{"ce-knativeerrorcode": "413"})
    post(
        sink.dead_letters,
        b"u",
        "run.2.leaf-3",
        **{"ce-knativeerrorcode": "503", "ce-knativeerrordest": "http://leaf-3.ns"},
    )
    with pytest.raises(Undelivered, match=r"run\.2\.leaf-3: http://leaf-3\.ns answered 503"):
        sink.mean("run.2", soon())


def test_a_mean_that_does_not_come(sink: Sink) -> None:
    with pytest.raises(TimeoutError, match=r"no mean of run\.1"):
        sink.mean("run.1", time.monotonic() + 0.01)


def test_a_body_without_a_length_is_refused(sink: Sink) -> None:
    parts = urlsplit(sink.means)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.putrequest("POST", parts.path)
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()
