"""How `make test` shares the tests out to its workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ALONE

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("start", ALONE)
def test_what_must_run_alone_is_where_it_is_looked_for(start: str) -> None:
    assert list(REPO.glob(f"{start}*"))
