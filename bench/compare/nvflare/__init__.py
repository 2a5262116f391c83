"""NVFlare as a side of the comparison; optional, in a virtual environment of its own."""

from __future__ import annotations

from bench.compare.nvflare.system import NVFlare as make

__all__ = ["make"]
