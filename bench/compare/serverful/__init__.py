"""The always-on side of the comparison: gRPC aggregators in a tree."""

from __future__ import annotations

from bench.compare.serverful.system import Serverful as make

__all__ = ["make"]
