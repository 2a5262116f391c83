"""LIFL's sides: whole, and with mechanisms switched off.

Why: the ablation is the same platform with other settings. *Control plane*: placement,
hierarchy, reuse and eager timing, each by itself; ``bench/ablation.json`` names the steps.
*Data plane*: with ``--dataplane socket`` descriptors go over plain sockets, with ``ebpf`` the
kernel routes them. Shared memory cannot be switched off, for nothing of this data plane would be
left: the base below it is the *vanilla* side, where the same aggregator gets payloads by value.
*Checkpoints*: no other side keeps one, so readers of LIFL do not wait for its own; how much
longer a round takes where they do is a side of its own. *Tree*: LIFL has as few leaves as keep up;
with the tree that the other sides have, a leaf for two updates, it is a side of its own too.

It must not play rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.compare.api import Group, Load
from bench.compare.lifl import Lifl

ABLATION: dict[str, Any] = json.loads((Path(__file__).parent.parent / "ablation.json").read_text())
SPARE_SLOTS = 48
"""Slots of an ablation's pool beyond one an update: two outputs for each aggregator of a node."""
WHOLE_SPARE = 16
"""The same of a whole LIFL's, on one node: five aggregators, two models, uploads that come early.
By itself the platform gives a job no more than a quarter of the memory; where that is too little,
clients are told to come again, which ready-made ones do not."""

BEHIND = {"LIFL_CHECKPOINT_BEHIND": "on"}


def make(load: Load, group: Group, document: bytes) -> Lifl:
    """Return LIFL, whole, on one node."""
    return Lifl(load, group, document, switches=BEHIND, spare=WHOLE_SPARE)


def make_durable(load: Load, group: Group, document: bytes) -> Lifl:
    """Return LIFL as it is by default: a version is on the disk before anybody can read it."""
    title = "LIFL, checkpoint before readers"
    return Lifl(load, group, document, name="lifl-durable", title=title, spare=WHOLE_SPARE)


def make_tree(load: Load, group: Group, document: bytes) -> Lifl:
    """Return LIFL with a leaf for each two updates, within the processors."""
    return Lifl(
        load,
        group,
        document,
        name="lifl-tree",
        title="LIFL, a leaf for two updates",
        switches=BEHIND,
        fan_in=2,
        spare=WHOLE_SPARE,
    )


def make_socket(load: Load, group: Group, document: bytes) -> Lifl:
    """Return LIFL with shared memory, but descriptors over plain sockets."""
    title = "LIFL, descriptors over plain sockets"
    return Lifl(
        load,
        group,
        document,
        name="lifl-socket",
        title=title,
        dataplane="socket",
        switches=BEHIND,
        spare=WHOLE_SPARE,
    )


def ablation(
    steps: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Callable[[Load, Group, bytes], Lifl]]:
    """Return the control plane's steps as makers, base first; each has what those before it have.

    All with the same data plane, on the definition's nodes.
    """
    switches: dict[str, str] = {
        **BEHIND,
        "LIFL_NODE_CAPACITY": str(ABLATION["node_capacity"]),
        "LIFL_KEEP_SECONDS": str(ABLATION["keep_seconds"]),
    }
    found = {}
    for i, step in enumerate(ABLATION["steps"] if steps is None else steps):
        switches = switches | step["set"]
        title = step["name"] if i == 0 else f"+{step['name']}"
        found[f"step-{i}-{step['name']}"] = _step(f"step-{i}-{step['name']}", title, switches)
    return found


def _step(
    name: str, title: str, switches: Mapping[str, str]
) -> Callable[[Load, Group, bytes], Lifl]:
    def make_step(load: Load, group: Group, document: bytes) -> Lifl:
        return Lifl(
            load,
            group,
            document,
            name=name,
            title=title,
            nodes=ABLATION["nodes"],
            fan_in=ABLATION["fan_in"],
            switches=switches,
            spare=SPARE_SLOTS,
            from_open=True,
        )

    return make_step
