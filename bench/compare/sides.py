"""Every side by its name, imported only when it is played.

Why: sides want packages, programs and environments that a machine may lack; one that cannot be
had must not keep the others from playing, and has to say what it wants. It must not play them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bench.compare import steps
from bench.compare.api import Group, Load, System
from bench.compare.peer import Venv

Maker = Callable[[Load, Group, bytes], System]
PEERS = {"flower": "flwr", "nvflare": "nvflare"}
"""Sides that may be absent, and their package."""


class Absent(Exception):
    """A side cannot be played here; the text says what it wants."""


def makers() -> dict[str, Maker]:
    """Return every side by name; those that are not installed raise Absent when called."""
    found: dict[str, Maker] = {"lifl": steps.make, "lifl-socket": steps.make_socket}
    found |= {"lifl-durable": steps.make_durable, "lifl-tree": steps.make_tree}
    for name in ("serverful", "vanilla", "flower", "nvflare"):
        found[name] = _from_module(name)
    found["vanilla-warm"] = _from_module("vanilla", "make_warm")
    found["serverful-flat"] = _from_module("serverful", "make_flat")
    found["flower-inprocess"] = _from_module("flower", "make_inprocess")
    return found | steps.ablation()


def _from_module(name: str, function: str = "make") -> Maker:
    """Return a maker that imports its side only when it is played."""

    def make(load: Load, group: Group, document: bytes) -> System:
        try:
            module = importlib.import_module(f"bench.compare.{name}")
        except ImportError as e:
            raise Absent(f"{e}; pip install 'lifl[compare]'") from e
        if name in PEERS and (why := Venv(name, PEERS[name]).why_missing()):
            raise Absent(why)
        made: System = getattr(module, function)(load, group, document)
        return made

    return make
