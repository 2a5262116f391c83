"""Writing a file while its content is made."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.coordinator import behind
from functions.coordinator.behind import PIECE, WriteBehind


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "model", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def content(fd: int) -> bytes:
    return os.pread(fd, 1 << 30, 0)


@given(st.lists(st.integers(0, 3 * PIECE + 5), max_size=6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_all_of_it_is_in_the_file_whatever_was_said_on_the_way(tmp_path_factory, steps, without):
    source = bytearray(os.urandom(3 * PIECE + 5))
    patch = pytest.MonkeyPatch()
    with patch.context() as m, (tmp_path_factory.mktemp("x") / "model").open("w+b") as f:
        if without:  # a C library without sync_file_range
            m.setattr(behind, "_sync_file_range", None)
        with WriteBehind(f.fileno(), memoryview(source)) as writing:
            for upto in sorted(steps):
                writing.ready(upto)
        assert content(f.fileno()) == source


def test_what_is_not_ready_is_not_written_yet(fd, no_leaks):
    source = bytearray(4 * PIECE)
    with WriteBehind(fd, memoryview(source)) as writing:
        writing.ready(PIECE)
        while os.fstat(fd).st_size < PIECE:
            pass
        source[PIECE:] = b"x" * (3 * PIECE)  # the maker goes on
    assert content(fd) == bytes(PIECE) + b"x" * (3 * PIECE)


def test_a_full_disk_is_said_at_the_end_and_the_thread_ends(fd, no_leaks, monkeypatch):
    def pwrite(*_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="no space left"), WriteBehind(fd, memoryview(b"abc")) as w:
        w.ready(3)


def test_an_error_of_the_maker_comes_through_and_nothing_writes_any_more(fd, no_leaks):
    source = bytearray(2 * PIECE)
    with pytest.raises(ValueError, match="diverged"), WriteBehind(fd, memoryview(source)) as w:
        w.ready(PIECE)
        raise ValueError("diverged")
    assert os.fstat(fd).st_size <= PIECE
