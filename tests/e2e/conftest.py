"""What most end-to-end tests stand on: one platform for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lifl.platform import doctor

from .kit import Platform, platform


@pytest.fixture(scope="module")
def running() -> Iterator[Platform]:
    with platform(dataplane=doctor.default_dataplane()[0]) as up:
        yield up
