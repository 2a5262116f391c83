"""The machine that measures: free memory brought together, where that is allowed."""

from __future__ import annotations

from pathlib import Path

from bench.compare.machine import join_free_memory


def test_the_kernel_is_asked(tmp_path: Path) -> None:
    order = tmp_path / "compact_memory"
    order.touch()
    assert join_free_memory(order)
    assert order.read_text() == "1\n"


def test_who_may_not_ask_goes_on_without(tmp_path: Path) -> None:
    assert not join_free_memory(tmp_path / "nobody" / "compact_memory")
