"""Events of the broker: CloudEvents in HTTP's binary mode, entries of a Redis stream, and routes.

Why: ingress, dispatcher and clients must agree on names. An event's attributes travel as ``ce-``
headers over HTTP and as one JSON field of a stream's entry, its payload apart from both. What a
trigger filters by and what it changes is decided here and is pure. It must not move payload.

A *subject* names a sum and tells where its result belongs: ``ROUND.LEAVES.NODE.LEAF``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

MEDIA = "application/vnd.safetensors"
UPDATE, PARTIAL, MEAN = "dev.lifl.update", "dev.lifl.partial", "dev.lifl.mean"
ARRIVALS = "arrivals"
"""Channel: the ingress names the trigger for which it has put an event in the broker."""
MODELS = "models"
"""Channel: the ingress names a model when it is readable, ``ROUND SAMPLES``."""
MODEL = "model"
"""Key of the newest model, a safetensors document."""
GROUP = "dispatcher"
"""The consumers of every trigger's stream."""
TOP = "top"
"""The trigger of partial sums."""


class Subject(NamedTuple):
    """A leaf's sum: of which round, of how many leaves, on which node, which of its leaves."""

    round: int
    leaves: int
    node: int
    leaf: int

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Return what ``text`` says; raises ValueError if it is none."""
        try:
            return cls(*map(int, text.split(".")))
        except (TypeError, ValueError):
            raise ValueError(f"{text[:60]!r} is no ROUND.LEAVES.NODE.LEAF") from None


class Event(NamedTuple):
    """An event's attributes, without ``ce-``, and the bytes of its payload."""

    about: dict[str, str]
    nbytes: int


def stream_of(trigger: str) -> str:
    """Return the key of a trigger's stream."""
    return f"trigger:{trigger}"


def from_headers(headers: Mapping[str, str]) -> Event:
    """Return the event that HTTP headers (lower case) describe.

    Raises
    ------
    ValueError
        if they do not say what an event must say, or how long the payload is.
    """
    about = {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}
    if missing := [name for name in ("id", "source", "type") if not about.get(name)]:
        raise ValueError(f"the event lacks {', '.join(f'ce-{name}' for name in missing)}")
    length = headers.get("content-length", "")
    if not length.isdecimal():
        raise ValueError("say how long the payload is: Content-Length")
    return Event(about, int(length))


def to_headers(about: Mapping[str, str]) -> dict[str, str]:
    """Return the HTTP headers of an event."""
    return {f"ce-{name}": value for name, value in about.items()} | {"Content-Type": MEDIA}


def to_field(about: Mapping[str, str]) -> bytes:
    """Return the entry's field that holds the attributes."""
    return json.dumps(about, separators=(",", ":")).encode()


def from_field(field: bytes) -> dict[str, str]:
    """Return the attributes in an entry's field."""
    found: dict[str, str] = json.loads(field)
    return found


def trigger_of(about: Mapping[str, str]) -> str | None:
    """Return whose event it is: a node's trigger, the top's, or None for a mean.

    Raises
    ------
    ValueError
        if no trigger's filter lets it pass.
    """
    match about["type"]:
        case "dev.lifl.update" if about.get("liflnode"):
            return f"node-{about['liflnode']}"
        case "dev.lifl.partial":
            return TOP
        case "dev.lifl.mean":
            return None
    raise ValueError(f"no trigger wants an event of type {about['type'][:60]!r}")


def onward(about: Mapping[str, str]) -> dict[str, str]:
    """Return a leaf's reply as the top's trigger delivers it: one of the round's partials.

    Raises
    ------
    ValueError
        if its subject is no leaf's.
    """
    leaf = Subject.parse(about.get("subject", ""))
    return {
        **about,
        "subject": str(leaf.round),
        "liflgoal": str(leaf.leaves),
        "liflfinal": "1",
    }
