"""The always-on side of the comparison: gRPC aggregators in a tree."""

from __future__ import annotations

from bench.compare.api import Group, Load
from bench.compare.serverful.system import Serverful


def make(load: Load, group: Group, document: bytes) -> Serverful:
    """Return it with a leaf for each two clients."""
    return Serverful(load, group, document)


def make_flat(load: Load, group: Group, document: bytes) -> Serverful:
    """Return it with one aggregator for all clients, as one would have it on so small a machine."""
    title = "Always-on server (gRPC, no tree)"
    return Serverful(load, group, document, name="serverful-flat", title=title, fan_in=load.clients)
