"""What the gateway knows of a job: the coordinator's view of it, ready for use.

Why: polls and uploads are answered from memory; the coordinator is asked only
for what it alone may decide. A view is replaced, never changed. It must not do
I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lifl.store import SlotRef
from lifl.topology import Plan
from lifl.update import Layout, Schema, check, parse_header

_STATES = {
    "planning": "waiting",
    "open": "open",
    "closing": "closing",
    "committing": "closing",
    "done": "done",
    "stopped": "stopped",
    "failed": "stopped",
}


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where the present model lies; ``ref`` and the document's place are that node's."""

    node: str
    ref: SlotRef


@dataclass(frozen=True)
class JobSchema:
    """A schema with what the hot path needs of it."""

    schema: Schema
    raw: Mapping[str, Any]
    header: bytes
    layout: Layout

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> JobSchema:
        """Read a schema's JSON."""
        schema = Schema.from_json(raw)
        header = schema.canonical_header()
        layout = check(parse_header(header, schema.document_bytes), schema)
        return cls(schema, raw, header, layout)


@dataclass(frozen=True)
class JobView:
    """One job as of one revision; names as in the coordinator's watch.

    ``upload`` are the gateways' URLs by node, ``public`` those that clients must use instead.
    """

    job: str
    round: int
    assignment: int
    version: int
    phase: str
    schema: JobSchema | None
    update_type: str
    auth_key: bytes
    selected: frozenset[str] | None
    accepted: frozenset[str]
    lost: frozenset[str]
    clients: Mapping[str, str]
    upload: Mapping[str, str]
    public: Mapping[str, str]
    model: ModelPlace | None
    deadline: float | None
    plan: Plan | None
    client_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Return the state as clients are told it: open, closing, waiting, done or stopped."""
        return _STATES.get(self.phase, "waiting")

    @property
    def over(self) -> bool:
        """Whether no round follows."""
        return self.state in ("done", "stopped")

    def chosen(self, client: str) -> bool:
        """Whether ``client`` is asked in this round."""
        return self.selected is None or client in self.selected

    def standing(self, client: str) -> str:
        """Return what became of a client's update: none, accepted or lost."""
        if client in self.lost:
            return "lost"
        return "accepted" if client in self.accepted else "none"

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], before: JobView | None = None) -> JobView:
        """Read one job of a watch answer; ``before`` saves reading an unchanged schema again."""
        schema = before.schema if before is not None else None
        if raw.get("schema") and (schema is None or schema.raw != raw["schema"]):
            schema = JobSchema.of(raw["schema"])
        model = raw.get("model")
        plan = raw.get("plan")
        selected = raw.get("selected")
        return cls(
            job=raw["job"],
            round=raw["round"],
            assignment=raw["assignment"],
            version=raw["version"],
            phase=raw["phase"],
            schema=schema,
            update_type=raw.get("update_type", "weights"),
            auth_key=bytes.fromhex(raw["auth_key"]),
            selected=None if selected is None else frozenset(selected),
            accepted=frozenset(raw.get("accepted", ())),
            lost=frozenset(raw.get("lost", ())),
            clients=raw.get("clients") or {},
            upload=raw.get("upload") or {},
            public=raw.get("public") or {},
            model=ModelPlace(model["node"], SlotRef(model["slot"], model["generation"]))
            if model
            else None,
            deadline=raw.get("deadline"),
            plan=Plan.from_json(plan) if plan else None,
            client_config=raw.get("client_config") or {},
        )
