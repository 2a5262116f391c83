"""The vanilla serverless side of the comparison: a broker, sidecars, payload by value."""

from __future__ import annotations

from bench.compare.api import Group, Load
from bench.compare.vanilla.system import Vanilla

__all__ = ["Vanilla", "make", "make_warm"]


def make(load: Load, group: Group, document: bytes) -> Vanilla:
    """Return it with replicas that start from zero in each round."""
    return Vanilla(load, group, document)


def make_warm(load: Load, group: Group, document: bytes) -> Vanilla:
    """Return it with replicas that stay as long as the stock autoscaler lets them."""
    return Vanilla(load, group, document, from_zero=False)
