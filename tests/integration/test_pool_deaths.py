"""Processes killed at every line of the store's critical sections."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import pytest

from lifl.errors import AlreadyTaken, PoolBusy
from lifl.store import Pool, PoolGeometry, Seal, SlotKind, SlotRef, SlotState
from lifl.store.lock import TableLock

GATEWAY, LEAF, OTHER = 1, 2, 3


def _kill_at_line(number: int) -> Any:
    """Return a trace function that kills this process at the n-th line inside the pool."""
    count = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(("store/pool.py", "store/lock.py")):
            return None
        if event == "line":
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def _leaf(fd: int, refs: list[SlotRef], line: int) -> int:
    """Take every input and seal an output in a child that dies at ``line``; return its status."""
    pid = os.fork()
    if pid == 0:
        try:
            pool = Pool.attach(os.dup(fd))
            sys.settrace(_kill_at_line(line))
            cover = [pool.take(ref, LEAF).serial for ref in refs]
            out = pool.reserve(SlotKind.PARTIAL, LEAF, 7)
            pool.seal(out, LEAF, Seal(9, 2.0, 0, 4096, cover=cover, inputs=refs))
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]


def _counted(pool: Pool) -> list[int]:
    found: list[int] = []
    for ref in pool.find(state=SlotState.SEALED):
        found.extend(pool.cover(ref.slot).tolist())
    return sorted(found)


def test_death_at_every_line_counts_each_update_exactly_once() -> None:
    outcomes = set()
    for line in range(1, 1000):
        pool = Pool.create("deaths", PoolGeometry(4, 4096, 4096))
        refs = []
        for serial in (1, 2):
            ref = pool.reserve(SlotKind.UPDATE, GATEWAY, 7)
            pool.seal(ref, GATEWAY, Seal(serial, 1.0, 0, 4096))
            refs.append(ref)
        status = _leaf(pool.fd, refs, line)
        recovery = pool.recover(LEAF)
        partials = pool.find(state=SlotState.SEALED, kind=SlotKind.PARTIAL)
        outcomes.add((len(partials), len(recovery.redispatch), len(recovery.freed)))
        assert _counted(pool) == [1, 2], f"killed at line {line}"
        assert pool.find(state=SlotState.WRITING) == []
        assert pool.find(state=SlotState.TAKEN) == []
        pool.close()
        if not os.WIFSIGNALED(status):
            break
    else:
        pytest.fail("the child never got to its end")
    # Died before taking, with one or two inputs, before the seal, and between seal and freeing.
    assert {(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 2), (1, 0, 1), (1, 0, 0)} <= outcomes


def test_the_lock_of_a_dead_process_is_free() -> None:
    pool = Pool.create("deaths", PoolGeometry(4, 4096, 4096))
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        TableLock(pool.fd).__enter__()
        os.write(tell, b"x")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    impatient = TableLock(pool.fd, timeout=0.05)
    assert impatient.holder() == pid
    with pytest.raises(PoolBusy, match=str(pid)), impatient:
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with impatient:
        assert impatient.holder() == 0
    for fd in (ready, tell):
        os.close(fd)
    pool.close()


def test_two_processes_never_take_the_same_object() -> None:
    pool = Pool.create("race", PoolGeometry(256, 4096, 4096))
    refs = []
    for serial in range(256):
        ref = pool.reserve(SlotKind.UPDATE, GATEWAY, 7)
        pool.seal(ref, GATEWAY, Seal(serial, 1.0, 0, 4096))
        refs.append(ref)
    reads, children = [], []
    for leaf in (LEAF, OTHER):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            taken = 0
            mine = Pool.attach(os.dup(pool.fd))
            for ref in refs:
                with contextlib.suppress(AlreadyTaken):
                    mine.take(ref, leaf)
                    taken += 1
            os.write(write, taken.to_bytes(4, "little"))
            os._exit(0)
        os.close(write)
        reads.append(read)
        children.append(pid)
    counts = [int.from_bytes(os.read(read, 4), "little") for read in reads]
    for pid in children:
        os.waitpid(pid, 0)
    assert sum(counts) == 256
    assert len(pool.find(holder=LEAF)) == counts[0]
    for read in reads:
        os.close(read)
    pool.close()


def test_threads_of_one_process_exclude_each_other() -> None:
    pool = Pool.create("threads", PoolGeometry(8, 4096, 4096))
    errors: list[Exception] = []

    def churn(owner: int) -> None:
        try:
            for _ in range(300):
                ref = pool.reserve(SlotKind.UPDATE, owner, 7)
                pool.seal(ref, owner, Seal(owner, 1.0, 0, 4096))
                pool.take(ref, owner)
                pool.release(ref, owner)
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert pool.usage().free == 8
    pool.close()
