"""Which leaf an update is for, and the CloudEvents that take a round through the Broker.

Why: Triggers filter by attributes and a Broker rewrites nothing, so a client's event already says
which leaf it is for, how many make that leaf's sum, and what that sum is a part of. Leaves are
Services of their own, for a stock Service does not send what belongs together to one replica.
Pure; it must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from controller.plan.hierarchy import leaves_for

UPDATE, PARTIAL, MEAN = "dev.lifl.update", "dev.lifl.partial", "dev.lifl.mean"
TOP = "top"


class Part(NamedTuple):
    """A client's place in a round: its leaf, that leaf's updates, and the round's leaves."""

    leaf: int
    goal: int
    leaves: int


def leaf_name(leaf: int) -> str:
    """Return the name of a leaf's Service and of its Trigger."""
    return f"leaf-{leaf}"


def leaves(updates: int, fan_in: int) -> int:
    """Return how many leaves a round of ``updates`` has, as LIFL counts them."""
    return leaves_for(updates, fan_in, max(updates, 1))


def plan(updates: int, fan_in: int) -> list[Part]:
    """Return each update's part, ``fan_in`` in a row to one leaf.

    Raises
    ------
    ValueError
        if one of the numbers is below 1.
    """
    if min(updates, fan_in) < 1:
        raise ValueError("at least one update and a fan-in of one, please")
    total = leaves(updates, fan_in)
    members = [i // fan_in for i in range(updates)]
    return [Part(leaf, members.count(leaf), total) for leaf in members]


def attributes(subject: str, client: int, part: Part, samples: int) -> dict[str, str]:
    """Return the attributes of a client's update, without ``ce-``.

    ``subject`` names the round's mean. A leaf that is alone makes the mean itself.
    """
    about = {
        "specversion": "1.0",
        "id": f"{subject}.{client}",
        "source": f"/clients/{client}",
        "type": UPDATE,
        "liflleaf": str(part.leaf),
        "liflgoal": str(part.goal),
        "liflsamples": str(samples),
    }
    if part.leaves == 1:
        return about | {"subject": subject, "liflfinal": "1"}
    return about | {
        "subject": f"{subject}.{leaf_name(part.leaf)}",
        "liflparent": subject,
        "liflparts": str(part.leaves),
    }


def headers(about: Mapping[str, str]) -> dict[str, str]:
    """Return an event's HTTP headers in binary mode."""
    return {f"ce-{name}": value for name, value in about.items()}


def filters(leaf: int) -> dict[str, str]:
    """Return what the Trigger of a leaf lets pass."""
    return {"type": UPDATE, "liflleaf": str(leaf)}
