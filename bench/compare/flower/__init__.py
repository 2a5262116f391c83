"""Flower as a side of the comparison; optional, in a virtual environment of its own."""

from __future__ import annotations

from bench.compare.flower.inprocess import FlowerInProcess as make_inprocess
from bench.compare.flower.system import Flower as make

__all__ = ["make", "make_inprocess"]
