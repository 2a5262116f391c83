"""What is simulated: which side, on what, with how many clients; and what came of it.

Why: every part of the simulation needs the same few numbers. It must not compute anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.settings import PolicySettings
from lifl.errors import ConfigError
from lifl.topology import FAN_IN

SYSTEMS = ("lifl", "serverful", "vanilla")
GIGABIT = 1e9 / 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """One side on so many nodes.

    ``nbytes`` is an update's size, ``cores`` processors of each node. ``line`` is each node's
    network and ``client_rate`` a client's, in bytes a second each way, ``trip`` seconds of a
    round trip between nodes. ``memory`` is a node's, in bytes; a quarter is for the
    pool. ``leaves`` are the most leaves of a node on the always-on side (None: one a processor).
    ``middles``: vanilla has a middle for each node, which no stock part would give it;
    ``from_zero``: its functions are gone before each round.

    ``one_machine``: all nodes are on one machine of ``cores`` processors and so are the clients,
    as where rounds are really played; there is no network.
    """

    system: str
    nbytes: int
    nodes: int = 1
    cores: int = 2
    fan_in: int | None = None
    policies: PolicySettings = field(default_factory=PolicySettings)
    line: float = 10 * GIGABIT
    client_rate: float = 10 * GIGABIT
    trip: float = 2e-4
    memory: float = 64e9
    leaves: int | None = None
    middles: bool = False
    from_zero: bool = False
    one_machine: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise ConfigError(f"{self.system!r} is no side; use one of {', '.join(SYSTEMS)}")
        for name in ("nbytes", "nodes", "cores", "line", "client_rate", "memory"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be above 0")
        if self.fan_in is not None and self.fan_in < 1:
            raise ConfigError(f"fan_in is {self.fan_in}, it must be above 0")
        if self.trip < 0:
            raise ConfigError(f"a trip of {self.trip} s goes back in time")

    @property
    def share(self) -> int:
        """Return how many updates a leaf, or a function, is for on the sides that have to be told.

        LIFL's controller chooses by itself where ``fan_in`` is None.
        """
        return self.fan_in or FAN_IN

    @property
    def processors(self) -> int:
        """Return how many processors a node has for aggregators, as the controller counts them."""
        return max(1, self.cores // self.nodes) if self.one_machine else self.cores


@dataclass(frozen=True, slots=True)
class Result:
    """One round: seconds from its start to the readable model, and what it took.

    ``cpu`` are the side's processor seconds, clients left out; ``created`` aggregators that were
    started, ``aggregators`` those that had a part, ``nodes`` those that summed. ``peak`` is the
    most bytes that payloads and sums took at a time, on all nodes together, and
    ``peak_node`` on one. ``last`` is when the last client began to send, ``busiest`` the most
    processors that were at work at a time on one node.
    """

    seconds: float
    cpu: float
    updates: int
    created: int
    aggregators: int
    nodes: int
    peak: int
    peak_node: int
    last: float
    busiest: float

    def to_json(self) -> Mapping[str, Any]:
        """Return plain data."""
        return {
            "seconds": round(self.seconds, 6),
            "cpu_seconds": round(self.cpu, 6),
            "updates": self.updates,
            "aggregators_created": self.created,
            "aggregators": self.aggregators,
            "nodes": self.nodes,
            "peak_bytes": self.peak,
            "peak_node_bytes": self.peak_node,
            "last_arrival": round(self.last, 6),
        }
