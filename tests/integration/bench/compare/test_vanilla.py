"""The vanilla side with a real broker, real sidecars and real starts, small."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from bench.clients import Clients, head
from bench.compare import mean
from bench.compare.api import Load
from bench.compare.groups import open_group
from bench.compare.vanilla import Vanilla, event, make, reference, resp
from bench.compare.vanilla.broker import Broker
from bench.compare.vanilla.redis import Redis
from bench.harness import model_document
from lifl.update import parse_header

BYTES = 1_000_000
ABOUT = {"ce-id": "1", "ce-source": "/t", "ce-type": event.UPDATE, "ce-liflnode": "0"}


def load(clients: int) -> Load:
    return Load("test", "45mb", clients, (0.0,) * clients)


def test_from_zero_to_the_mean_and_back(no_leaks):
    """Four updates on two nodes: two leaves and a top are started, and again for the next round."""
    with (
        open_group("vanilla-zero") as group,
        Vanilla(load(4), group, model_document(BYTES), nodes=2) as system,
    ):
        before = group.usage()
        idle = len(group.pids())
        for _ in range(2):
            played = system.play()
            assert (played.updates, played.created, played.nodes) == (4, 3, 2)
            assert 0 < played.last_byte < played.wall
            assert len(group.pids()) == idle + 3 * 3  # gunicorn's master and worker, a sidecar
        assert group.usage().since(before).cpu > 0
        seen = group.pids()
        system._broker.ask("zero")
        assert len(group.pids()) == idle
    assert not group.left
    assert not seen & set(psutil.pids())


def test_kept_warm_nothing_is_started_again(no_leaks):
    with (
        open_group("vanilla-warm") as group,
        Vanilla(load(2), group, model_document(BYTES), nodes=1, from_zero=False) as system,
    ):
        assert system.play().created == 1  # one leaf that is the top
        again = system.play(1)
        assert (again.created, again.updates) == (0, 1)
        found, model = system.play_true([model_document(BYTES, value=i) for i in (0, 4)], [1, 3])
        assert found.created == 0
        start = parse_header(model, len(model)).data_start
        values = np.frombuffer(model, np.float32, offset=start)
        assert values.mean() == pytest.approx(3.0, abs=0.01)
    assert not group.left


def test_a_wrong_mean_fails_the_round(no_leaks, monkeypatch):
    monkeypatch.setattr(mean, "all_samples", lambda clients: 1)
    with (
        open_group("vanilla-wrong") as group,
        Vanilla(load(1), group, model_document(BYTES), nodes=1) as system,
        pytest.raises(RuntimeError, match="over 10 samples, 1 were sent"),
    ):
        system.play()


def test_an_update_that_the_function_refuses_fails_the_round(no_leaks):
    broken = bytearray(model_document(BYTES))
    broken[-4:] = np.float32(np.nan).tobytes()
    with (
        open_group("vanilla-nan") as group,
        Vanilla(load(1), group, bytes(broken), nodes=1) as system,
        pytest.raises(RuntimeError, match="answers 422"),
    ):
        system.play()


def test_make_plays_from_zero():
    with open_group("vanilla-make") as group:
        assert make(load(1), group, model_document(BYTES))._from_zero


@pytest.mark.parametrize("nbytes", [10_000, 8 << 20])
def test_what_the_ingress_refuses_is_answered_and_not_kept(no_leaks, nbytes):
    """No event; one that no trigger wants; and those for which Redis has no room."""
    with (
        open_group("vanilla-ingress") as group,
        Broker(group, [], 3 * nbytes + (4 << 20)) as broker,
        Clients(1, bytes(nbytes)) as clients,
    ):
        heads = [{}, ABOUT | {"ce-type": "other"}, *[ABOUT] * 6]
        answers = []
        for about in heads:
            line = head("127.0.0.1", broker.port, "/", nbytes, about)
            clients.start([("127.0.0.1", broker.port, line)])
            answers += clients.wait()
        with resp.connect(broker.redis) as redis:
            kept = resp.ask(redis, "XLEN", event.stream_of("node-0"))
    statuses = [a.status for a in answers]
    assert statuses[:2] == [400, 400]
    assert b"lacks ce-id" in answers[0].answer
    assert kept == statuses.count(202) >= 1
    assert set(statuses[2:]) == ({202} if nbytes == 10_000 else {202, 507})


def test_redis_is_nobody_elses_and_leaves_nothing(no_leaks):
    with open_group("vanilla-redis") as group, Redis(group, 64 << 20) as redis:
        assert redis.version()[0].isdigit()
        with pytest.raises(resp.RedisError, match="WRONGPASS"):
            resp.connect(redis.address._replace(password="guess"))
        with resp.connect(redis.address) as stream:
            said = resp.ask(stream, "CONFIG", "GET", "maxmemory")
        assert said == [b"maxmemory", b"%d" % (64 << 20)]
    with pytest.raises(ConnectionRefusedError):
        resp.connect(redis.address)


def test_the_reference_is_two_rates(no_leaks):
    with open_group("vanilla-reference") as group:
        hop, eight = reference.measure(group, BYTES)
    assert hop.published == pytest.approx(303.7, abs=0.1)
    assert eight.published == pytest.approx(358.6, abs=0.1)
    assert min(hop.measured, eight.measured) > 1
