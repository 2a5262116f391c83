"""What things cost: the numbers a simulation runs on, and the file they are kept in.

Why: costs are measured (``bench.sim.calibrate``) or fitted to rounds that were played
(``bench.sim.fit``), never typed into the model, so they stand in a file that says where they come
from. It must not measure anything.

The file is JSON with these keys; all are seconds of one processor unless it says otherwise:

==================================  ==================================================
``origin``                          what machine, when, and how each part was got
``client.per_byte``                 a client's send over loopback (if it shares the processors)
``aggregator.start``                a new aggregator process; by clock ``start_wait`` longer
``aggregator.sum_per_byte``         one addition ``acc += w*x``, a byte of x
``lifl.ingest``, ``_per_byte``      an update through the gateway: head, reading, checks, seal
``lifl.claim``                      an update at the coordinator, the one writer
``lifl.handoff``                    an object to the next aggregator: descriptor, take, seal
``lifl.apply``                      a plan made routes, a node of it
``lifl.round``                      what else a round takes of processors (controller, polls)
``lifl.commit``, ``_per_byte``      the mean becomes the model: strategy, file, transaction
``lifl.commit_wait``, ``_per_byte`` the same, by clock, beyond processor time (the disk)
``lifl.forward``, ``_per_byte``     an object to another node: at the sender
``lifl.accept``, ``_per_byte``      the same, at the receiver
``serverful``, ``vanilla``          a *hop* by value, see :class:`Hop`
==================================  ==================================================
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from lifl.errors import ConfigError

DEFAULT = Path(__file__).with_name("costs.json")


@dataclass(frozen=True, slots=True)
class Client:
    """What a client costs where it shares processors with the nodes."""

    per_byte: float


@dataclass(frozen=True, slots=True)
class Aggregator:
    """What is the same on every side: a process start, and an addition."""

    start: float
    start_wait: float
    sum_per_byte: float


@dataclass(frozen=True, slots=True)
class Lifl:
    """LIFL's costs; the module says what each is."""

    ingest: float
    ingest_per_byte: float
    claim: float
    handoff: float
    apply: float
    round: float
    commit: float
    commit_per_byte: float
    commit_wait: float
    commit_wait_per_byte: float
    forward: float
    forward_per_byte: float
    accept: float
    accept_per_byte: float


@dataclass(frozen=True, slots=True)
class Hop:
    """A payload by value from whoever sends it into an aggregator's sum.

    ``fixed`` and ``per_byte`` are processor time of all the side's processes for one hop of an
    update, the sum included; ``send_per_byte`` is what sending takes: of the side itself, if it
    sends a partial, and of an always-on side's client, which speaks gRPC too. ``serial`` is the
    share of a hop that one process must do for all that meet there (a broker's thread, an
    interpreter). ``finish`` and ``finish_per_byte`` are of the last sum becoming the model.
    ``start`` is a new function with its sidecar, by clock ``start_wait`` longer.
    """

    fixed: float
    per_byte: float
    send_per_byte: float
    serial: float
    finish: float = 0.0
    finish_per_byte: float = 0.0
    start: float = 0.0
    start_wait: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """All of it."""

    client: Client
    aggregator: Aggregator
    lifl: Lifl
    serverful: Hop
    vanilla: Hop
    origin: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path = DEFAULT) -> Self:
        """Read a file.

        Raises
        ------
        ConfigError
            if it cannot be read, or a number is missing, unknown, negative or none; it says which.
        """
        try:
            raw = json.loads(path.read_text())
        except OSError as e:
            raise ConfigError(f"{path}: {e.strerror}") from e
        except ValueError as e:
            raise ConfigError(f"{path} is not JSON: {e}") from e
        if not isinstance(raw, dict):
            raise ConfigError(f"{path}: no object of costs")
        return cls(
            client=_part(Client, raw, "client", path),
            aggregator=_part(Aggregator, raw, "aggregator", path),
            lifl=_part(Lifl, raw, "lifl", path),
            serverful=_part(Hop, raw, "serverful", path),
            vanilla=_part(Hop, raw, "vanilla", path),
            origin=raw.get("origin") or {},
        )

    def save(self, path: Path) -> None:
        """Write a file that :meth:`load` reads."""
        path.write_text(json.dumps(_rounded(asdict(self)), indent=1) + "\n")

    def with_hops(self, *, serverful: Hop | None = None, vanilla: Hop | None = None) -> Costs:
        """Return the same with other costs of a hop, where they are given."""
        return replace(self, serverful=serverful or self.serverful, vanilla=vanilla or self.vanilla)


def _part(kind: Any, raw: Mapping[str, Any], name: str, path: Path) -> Any:
    found = raw.get(name)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {name} is missing")
    wanted = {f.name for f in fields(kind)}
    if wrong := wanted.symmetric_difference(found):
        first = sorted(wrong)[0]
        word = "missing" if first in wanted else "not known"
        raise ConfigError(f"{path}: {name}.{first} is {word}")
    for key, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or value < 0:
            raise ConfigError(f"{path}: {name}.{key} is {value!r}, not a number from 0 on")
    if found.get("serial", 0) > 1:
        raise ConfigError(f"{path}: {name}.serial is a share, at most 1")
    return kind(**found)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return value
