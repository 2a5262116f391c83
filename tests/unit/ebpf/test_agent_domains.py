from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpf.agent import state
from ebpf.agent.domains import READERS, Domain, check_geometry
from ebpf.agent.peers import Process
from ebpf.agent.registry import Endpoint, Registry, endpoint_from_json
from ebpf.agent.settings import AgentSettings
from ebpf.agent.settle import Dispatcher
from lifl.errors import ConfigError, RegistrationError
from lifl.store import PoolGeometry
from lifl.topology import Level, Plan, Role, Timing
from lifl.wire import Kind

GEOMETRY = PoolGeometry(slots=4, float_bytes=4096, meta_bytes=4096, lanes=READERS + 2)


def plan(assignment: int, epoch: int = 1) -> Plan:
    return Plan("job", assignment, epoch, Timing.LAZY, (Role("top", "a", Level.TOP, 1),))


@pytest.fixture
def domain() -> Iterator[Domain]:
    domain = Domain(3, "job", 1000, GEOMETRY, 1, Dispatcher(0.1))
    domain.create_pool()
    yield domain
    assert domain.pool is not None
    domain.pool.close()


def endpoint(domain: Domain, number: int, kind: Kind, lane: int, name: str = "f") -> Endpoint:
    return Endpoint(number, kind, name, domain, lane, Process.gone(1, 2, 3))


def test_plans_are_replaced_by_later_ones_only(domain: Domain) -> None:
    assert domain.apply(plan(2, 2))
    assert not domain.apply(plan(2, 1))
    assert not domain.apply(plan(1, 9))
    assert domain.apply(plan(2, 2))
    assert domain.apply(plan(3))
    assert domain.plan == plan(3)
    domain.end(3)
    assert domain.plan == plan(2, 2)
    assert not domain.apply(plan(3, 9))  # it is over


def test_a_domain_outlives_its_agent(domain: Domain) -> None:
    domain.apply(plan(1))
    domain.apply(plan(2))
    domain.closing.add(1)
    domain.end(7)
    domain.names[5] = "gone"
    raw = json.loads(json.dumps(domain.to_json()))
    again = Domain.from_json(raw, Dispatcher(0.1))
    assert again.pool is None
    assert again.to_json() == domain.to_json()


def test_memory_is_known_by_its_inode(domain: Domain, no_leaks: None) -> None:
    assert domain.pool is not None
    same, other = os.dup(domain.pool.fd), os.memfd_create("x")
    assert domain.recognise(same)
    assert not domain.recognise(other)
    os.close(other)
    with domain.pool.lock.threads:
        os.close(same)


def test_a_pool_needs_lanes_for_aggregators() -> None:
    assert check_geometry(GEOMETRY) is GEOMETRY
    with pytest.raises(ConfigError, match="more than 64 lanes"):
        check_geometry(PoolGeometry(4, 4096, 4096, READERS))


def test_lanes_are_split_between_readers_and_aggregators(domain: Domain) -> None:
    registry = Registry()
    assert registry.lane(domain, Kind.GATEWAY) == 0
    registry.add(endpoint(domain, registry.number(), Kind.GATEWAY, 0))
    assert registry.lane(domain, Kind.COORDINATOR) == 1
    for lane in (READERS, READERS + 1):
        assert registry.lane(domain, Kind.AGGREGATOR) == lane
        registry.add(endpoint(domain, registry.number(), Kind.AGGREGATOR, lane))
    with pytest.raises(RegistrationError, match="2 aggregators already"):
        registry.lane(domain, Kind.AGGREGATOR)
    other = Domain(4, "other", 1000, GEOMETRY, 0, Dispatcher(0.1))
    assert registry.lane(other, Kind.AGGREGATOR) == READERS


def test_numbers_are_never_given_twice_and_void_ones_keep_their_lane(domain: Domain) -> None:
    registry = Registry(next_number=9)
    one = endpoint(domain, registry.number(), Kind.AGGREGATOR, READERS, "one")
    registry.add(one)
    assert one.number == 9
    assert registry.named("one") == [one]
    one.void = True
    assert registry.live() == registry.named("one") == registry.members(domain) == []
    assert registry.lane(domain, Kind.AGGREGATOR) == READERS + 1
    registry.remove(one)
    assert registry.number() == 10
    assert registry.get(9) is None


def test_an_endpoint_outlives_its_agent(domain: Domain) -> None:
    one = endpoint(domain, 9, Kind.COORDINATOR, 1)
    one.ready = True
    again = endpoint_from_json(one.to_json(), domain, one.process, 5.0)
    assert again.to_json() == one.to_json()
    assert again.lost_at == 5.0


def test_state_is_void_in_another_run_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.json"
    assert state.load(path) is None
    state.save(path, {"epoch": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    found = state.load(path)
    assert found is not None
    assert found["epoch"] == 1
    monkeypatch.setattr(state, "boot_id", lambda: "another")
    assert state.load(path) is None
    path.write_text("{")
    assert state.load(path) is None


def test_settings_have_defaults_and_refuse_nonsense() -> None:
    settings = AgentSettings.from_env({"LIFL_RUN_DIR": "/r", "LIFL_NODE": "node-3"})
    assert settings.agent_socket == Path("/r/node-3/agent.sock")
    assert settings.state_file.parent == settings.pin_dir.parent == Path("/r/node-3")
    assert (settings.dataplane, settings.metrics_port) == ("ebpf", 0)
    for name, value in (("LIFL_NODE", "../x"), ("LIFL_DATAPLANE", "x"), ("LIFL_GRACE", "x")):
        with pytest.raises(ConfigError, match=name):
            AgentSettings.from_env({name: value})
