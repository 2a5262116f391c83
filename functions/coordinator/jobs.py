"""What a job file asks for.

Why: a submitter learns at once what is wrong with a job file, and where;
everything behind reads one frozen dataclass. The schema (``job.schema.json``)
is the definition, also for editors and for tests. It must not do I/O beyond
reading that file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from functions.coordinator.effects import RoundRules
from functions.coordinator.problems import Refused
from functions.coordinator.selection import SelectionRules
from functions.coordinator.strategies import Strategy, make
from lifl.errors import ConfigError
from lifl.naming import check_client, check_name
from lifl.topology import Timing

SCHEMA_FILE = Path(__file__).with_name("job.schema.json")


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A checked job file; ``names`` are the clients known from the start.

    ``fan_in`` is how many updates a leaf is for, None if the controller may choose.
    """

    name: str
    rules: RoundRules
    strategy: Strategy
    fan_in: int | None
    timing: Timing
    slots: int | None
    names: tuple[str, ...]
    client_config: Mapping[str, Any]


def parse(document: Any) -> JobSpec:
    """Check a job file's content and return what it asks for.

    Raises
    ------
    Refused
        422 ``invalid-job``; ``where`` is the path of the wrong value, like
        ``spec.clients.perRound``.
    """
    error = best_match(_validator().iter_errors(document))
    if error is not None:
        raise _invalid(error.message, error.absolute_path)
    spec = document["spec"]
    clients = spec["clients"]
    _check_names(document["metadata"]["name"], clients.get("names", ()))
    per_round = int(clients["perRound"])
    minimum = int(clients.get("minimum", per_round))
    if minimum > per_round:
        raise _invalid(
            f"{minimum} is more than perRound ({per_round})", ("spec", "clients", "minimum")
        )
    deadline = spec.get("deadlineSeconds")
    if minimum < per_round and deadline is None:
        raise _invalid(
            "a minimum below perRound needs deadlineSeconds: without one no round ends early",
            ("spec", "clients", "minimum"),
        )
    strategy = dict(spec.get("strategy", {"name": "fedavg"}))
    aggregation = spec.get("aggregation", {})
    return JobSpec(
        name=document["metadata"]["name"],
        rules=RoundRules(
            rounds=int(spec["rounds"]),
            selection=SelectionRules(
                per_round=per_round,
                minimum=minimum,
                over_provision=float(clients.get("overProvision", 0.0)),
                everyone=clients.get("selection", "random") == "all",
                seed=int(clients.get("seed", 0)),
            ),
            deadline=None if deadline is None else float(deadline),
            update_type=spec.get("update", "weights"),
        ),
        strategy=make(strategy.pop("name"), strategy),
        fan_in=int(aggregation["fanIn"]) if "fanIn" in aggregation else None,
        timing=Timing(aggregation.get("timing", "eager")),
        slots=None if "pool" not in spec else spec["pool"].get("slots"),
        names=tuple(clients.get("names", ())),
        client_config=spec.get("clientConfig", {}),
    )


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


def _check_names(job: str, clients: Sequence[str]) -> None:
    """Refuse what only Python's ``$`` lets through: a line's end after the name."""
    try:
        check_name(job, "job")
    except ConfigError as e:
        raise _invalid(str(e), ("metadata", "name")) from None
    for i, client in enumerate(clients):
        try:
            check_client(client)
        except ConfigError as e:
            raise _invalid(str(e), ("spec", "clients", "names", i)) from None


def _invalid(message: str, path: Iterable[str | int]) -> Refused:
    where = ".".join(str(p) for p in path) or "the document"
    return Refused(422, "invalid-job", f"{where}: {message[:500]}", where=where)
