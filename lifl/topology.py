"""The aggregation plan as pure data: who sums what, and where the result goes.

Why: the controller decides a plan, the agents turn it into routes, the
simulator and the tests read the same object. It must not do I/O and must not
know how a plan was decided.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lifl.errors import ConfigError

FAN_IN = 2
"""Updates that a leaf is for at least, where a job does not say."""


class Level(enum.StrEnum):
    """The place of an aggregator in the tree; a route, not a program."""

    LEAF = "leaf"
    MIDDLE = "middle"
    TOP = "top"


class Timing(enum.StrEnum):
    """When an aggregator adds: on each arrival, or when all are there."""

    EAGER = "eager"
    LAZY = "lazy"


@dataclass(frozen=True, slots=True)
class Role:
    """One aggregator's part in an assignment.

    ``goal`` is a hint: how many objects it should expect. ``parent`` is the
    aggregator it sends to; ``None`` means the coordinator (the top).
    """

    name: str
    node: str
    level: Level
    goal: int
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How one assignment (a job's round, as far as the data plane knows) is summed.

    ``assignment`` is the number the data plane uses; ``epoch`` grows with each
    re-plan of the same assignment. ``clients`` maps client to node.
    """

    job: str
    assignment: int
    epoch: int
    timing: Timing
    roles: tuple[Role, ...]
    clients: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_name = {r.name: r for r in self.roles}
        if len(by_name) != len(self.roles):
            raise ConfigError(f"plan {self.job}/{self.assignment}: an aggregator has two roles")
        tops = [r for r in self.roles if r.parent is None]
        if self.roles and len(tops) != 1:
            raise ConfigError(f"plan {self.job}/{self.assignment}: {len(tops)} tops, need one")
        for role in self.roles:
            if role.parent is not None and role.parent not in by_name:
                raise ConfigError(f"plan {self.job}: {role.name} sends to unknown {role.parent}")
            if role.goal < 1:
                raise ConfigError(f"plan {self.job}: {role.name} has goal {role.goal}")
        for role in self.roles:
            self._check_path(role, by_name)

    def _check_path(self, role: Role, by_name: Mapping[str, Role]) -> None:
        seen = {role.name}
        while role.parent is not None:
            role = by_name[role.parent]
            if role.name in seen:
                raise ConfigError(f"plan {self.job}: the path of {role.name} is a loop")
            seen.add(role.name)

    @property
    def top(self) -> Role:
        """Return the role whose output is the mean."""
        return next(r for r in self.roles if r.parent is None)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Return the nodes in use, sorted."""
        return tuple(sorted({r.node for r in self.roles}))

    @property
    def levels(self) -> int:
        """Return the length of the longest path, 1 for a lone top."""
        return max((self._depth(r) for r in self.roles), default=0)

    def _depth(self, role: Role) -> int:
        depth = 1
        while role.parent is not None:
            role, depth = self.role(role.parent), depth + 1
        return depth

    def role(self, name: str) -> Role:
        """Return the role of one aggregator; KeyError if it has none."""
        for role in self.roles:
            if role.name == name:
                return role
        raise KeyError(name)

    def on(self, node: str) -> tuple[Role, ...]:
        """Return the roles of one node."""
        return tuple(r for r in self.roles if r.node == node)

    def own(self) -> dict[str, int]:
        """Return how many client updates each role takes itself, by its name.

        A goal counts inputs; what it has beyond one for each child are updates.
        """
        children = Counter(r.parent for r in self.roles)
        return {r.name: max(0, r.goal - children[r.name]) for r in self.roles}

    def entry(self, node: str) -> tuple[Role, ...]:
        """Return where updates that arrive at ``node`` go, in the order in which they are filled.

        Those that take updates themselves, leaves first: what else sums partials can do so
        until it has its share. If nobody does, any who is there.
        """
        here, own = self.on(node), self.own()
        takers = [r for r in here if own[r.name]]
        return tuple(sorted(takers, key=lambda r: r.level is not Level.LEAF)) or here

    def children(self, name: str) -> Iterator[Role]:
        """Yield the roles that send to ``name``."""
        return (r for r in self.roles if r.parent == name)

    def expected(self) -> dict[str, int]:
        """Return how many client updates each role's output should cover, by its name."""
        by_name = {r.name: r for r in self.roles}
        own = self.own()
        found = dict.fromkeys(by_name, 0)
        for role in self.roles:
            above: Role | None = role
            while above is not None:
                found[above.name] += own[role.name]
                above = None if above.parent is None else by_name[above.parent]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a message or a file."""
        return {
            "job": self.job,
            "assignment": self.assignment,
            "epoch": self.epoch,
            "timing": self.timing.value,
            "roles": [
                {
                    "name": r.name,
                    "node": r.node,
                    "level": r.level.value,
                    "goal": r.goal,
                    "parent": r.parent,
                }
                for r in self.roles
            ],
            "clients": dict(self.clients),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Plan:
        """Read what :meth:`to_json` wrote."""
        return cls(
            job=raw["job"],
            assignment=raw["assignment"],
            epoch=raw["epoch"],
            timing=Timing(raw["timing"]),
            roles=tuple(
                Role(r["name"], r["node"], Level(r["level"]), r["goal"], r["parent"])
                for r in raw["roles"]
            ),
            clients=dict(raw["clients"]),
        )
