"""Connections follow an agent that moves; one that is away is left alone."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import pytest

from controller import agents as module
from controller.agents import Agents, LocalDirectory
from controller.loads import Loads
from controller.view import NodeView
from lifl.dataplane.admin import AgentAdmin
from lifl.errors import Unavailable


class Admin:
    def __init__(self, place: Hashable) -> None:
        self.place = place
        self.closed = False
        self.away = False

    def look(self) -> dict[str, Any]:
        if self.away:
            raise Unavailable("away")
        return {"epoch": 3, "domains": ["j"], "work": {"j": [0, 0, 0]}, "at_ns": 1}

    def close(self) -> None:
        self.closed = True


def agents_of(directory: Moving) -> Agents:
    return Agents(directory, Loads(alpha=0.7, period=1.0))


class Moving:
    longest_pause = 1.0

    def __init__(self) -> None:
        self.places: dict[str, Hashable] = {"n": "10.0.0.1"}
        self.opened: list[Admin] = []

    def place(self, node: str) -> Hashable | None:
        return self.places.get(node)

    def open(self, node: str, timeout: float) -> AgentAdmin:
        self.opened.append(Admin(self.places[node]))
        return cast(AgentAdmin, self.opened[-1])


def test_a_connection_is_kept_until_the_agent_moves() -> None:
    directory = Moving()
    agents = agents_of(directory)
    assert agents.look(["n"]) == [NodeView("n", "3", frozenset({"j"}))]
    agents.look(["n"])
    assert len(directory.opened) == 1
    directory.places["n"] = "10.0.0.2"
    agents.look(["n"])
    first, second = directory.opened
    assert first.closed and not second.closed
    assert second.place == "10.0.0.2"
    agents.close()
    assert second.closed


def test_a_node_without_an_agent_is_seen_as_away() -> None:
    directory = Moving()
    agents = agents_of(directory)
    agents.look(["n"])
    del directory.places["n"]
    assert agents.look(["n", "m"]) == [NodeView("n", ""), NodeView("m", "")]
    assert directory.opened[0].closed
    with pytest.raises(Unavailable, match="node m has no agent"):
        agents.admin("m")


def test_an_agent_that_is_away_is_left_alone_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    directory = Moving()
    agents = agents_of(directory)
    agents.look(["n"])
    directory.opened[0].away = True
    assert agents.look(["n"]) == [NodeView("n", "")]
    directory.opened[0].away = False
    assert agents.look(["n"]) == [NodeView("n", "")]
    now[0] += module.LEAVE_ALONE_SECONDS
    assert agents.look(["n"])[0].epoch == "3"


def test_the_pause_grows_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    directory = Moving()
    agents = agents_of(directory)
    agents.look(["n"])
    directory.opened[0].away = True
    pauses = []
    for _ in range(4):
        agents.look(["n"])
        until = agents._away["n"][0]
        pauses.append(until - now[0])
        now[0] = until
    assert pauses == [0.5, 1.0, 1.0, 1.0]


def test_many_are_asked_side_by_side(no_leaks: None) -> None:
    directory = Moving()
    directory.places = {f"n{i}": f"10.0.0.{i}" for i in range(40)}
    agents = agents_of(directory)
    agents.look(directory.places)
    directory.opened[7].away = True
    views = agents.look(directory.places)
    assert [v.name for v in views] == list(directory.places)
    assert [v.epoch for v in views].count("3") == 39
    agents.close()


def test_local_agents_are_found_by_path(tmp_path: Path) -> None:
    assert LocalDirectory(tmp_path).place("n") == tmp_path / "n" / "admin.sock"
