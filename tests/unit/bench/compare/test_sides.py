"""Sides by name, and what one that is not installed says."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bench.compare import sides
from bench.compare.api import Load, Usage
from bench.compare.sides import Absent

LOAD = Load("trial", "1000kb", 1, (0.0,))


class NoGroup:
    def adopt(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def usage(self) -> Usage:
        return Usage(0.0, 0.0)

    def memory(self) -> int:
        return 0


def test_makers_have_every_side() -> None:
    found = sides.makers()
    assert {
        "lifl",
        "lifl-socket",
        "lifl-durable",
        "serverful",
        "vanilla",
        "flower",
        "nvflare",
    } <= set(found)
    assert [n for n in found if n.startswith("step-")] == [
        *("step-0-base", "step-1-placement", "step-2-hierarchy", "step-3-reuse", "step-4-eager")
    ]


def test_a_peer_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.compare.peer.ROOT", Path("/nonexistent"))
    with pytest.raises(Absent, match="scripts/peers flower"):
        sides.makers()["flower"](LOAD, NoGroup(), b"")
