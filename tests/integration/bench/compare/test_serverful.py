"""The always-on side with real processes and real gRPC, small."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare import mean, models
from bench.compare.api import Load
from bench.compare.crew import Crew
from bench.compare.groups import open_group
from bench.compare.serverful import make, protocol, reference
from bench.harness import model_document

BYTES = 3_000_000


def load(clients: int) -> Load:
    return Load("test", "45mb", clients, (0.0,) * clients)


@pytest.mark.parametrize("clients", [1, 5])
def test_rounds_of_all_and_of_some_clients(no_leaks, clients):
    document = model_document(BYTES)
    with open_group("serverful") as group, make(load(clients), group, document) as system:
        before = group.usage()
        for updates in (None, 1, clients):
            played = system.play(updates)
            assert played.updates == (updates or clients)
            assert 0 < played.last_byte <= played.wall < 10
        assert group.usage().since(before).cpu > 0
        assert not group.left


def test_true_updates_that_differ_have_their_mean(no_leaks):
    document = model_document(BYTES)
    base = models.arrays_of(document)
    updates = [{name: a * np.float32(i - 1) for name, a in base.items()} for i in range(5)]
    samples = [5, 3, 1, 7, 2]
    with open_group("serverful") as group, make(load(5), group, document) as system:
        system.play()
        documents = [models.document_of(u) for u in updates]
        played, found = system.play_true(documents, samples)
        assert played.updates == 5
        expected = models.document_of(models.average(updates, samples))
        assert models.same(found, expected) < 1e-6
        assert models.same(system.play_true(documents[3:], [1, 1])[1], found) > 0.1
        system.play()  # the document it was made with again: the mean is checked


def test_arrivals_are_kept(no_leaks):
    document = model_document(BYTES)
    late = Load("late", "45mb", 2, (0.0, 0.3))
    with open_group("serverful") as group, make(late, group, document) as system:
        assert system.play().last_byte >= 0.3


def test_aggregators_are_in_the_group_and_clients_are_not(commands, no_leaks):
    with open_group("serverful") as group, make(load(3), group, model_document(BYTES)):
        lines = commands(group.pids())
        assert len(lines) == 1 + 3  # the host, two leaves, the top
        assert all("serverful.aggregator" in line for line in lines)


def test_a_wrong_mean_fails_the_round(no_leaks, monkeypatch):
    monkeypatch.setattr(mean, "all_samples", lambda clients: 1)
    with (
        open_group("serverful") as group,
        make(load(2), group, model_document(BYTES)) as system,
        pytest.raises(RuntimeError, match="over 21 samples, 1 were sent"),
    ):
        system.play()


def test_an_update_of_another_model_is_refused(no_leaks):
    header, floats = protocol.split(model_document(BYTES))
    other = model_document(BYTES // 2)
    about = protocol.describe(header, len(floats))
    with (
        Crew("bench.compare.serverful.aggregator", 1, about) as servers,
        Crew("bench.compare.serverful.client", 1, other) as clients,
    ):
        (client,) = clients.wires
        address = f"127.0.0.1:{servers.wires[0].hear()['port']}"
        for order in (
            {"do": "connect"},
            {"do": "open", "round_": 1, "goal": 1, "parent": ""},
        ):
            client.tell(address=address, **order)
            client.hear()
        client.tell(do="send", address=address, at=0.0, round_=1, samples=1.0)
        with pytest.raises(RuntimeError, match="not the tensors of this model"):
            client.hear()


def test_a_dead_aggregator_fails_the_round(no_leaks):
    with (
        open_group("serverful") as group,
        make(load(2), group, model_document(BYTES)) as system,
    ):
        system.play()
        system._servers[0].close()  # it ends as soon as nobody holds its wire
        system._servers = []
        with pytest.raises(RuntimeError, match="client"):
            for _ in range(100):
                system.play()


def test_the_reference_is_a_rate(no_leaks):
    with open_group("serverful") as group:
        found = reference.measure(group, BYTES)
    assert found.path == "gRPC stream, 1 MB, bytes"
    assert 5 < found.measured < 20_000
    assert found.published == pytest.approx(1066.7, abs=0.1)
    assert np.isfinite(found.measured)
