"""What a reader must know of the machine that measured.

Why: figures of different machines, or of a busy one, are not to be compared; so each file of
results says where it is from.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SETTLE_SECONDS, LOOK_SECONDS = 2.0, 0.1
QUIET_PERCENT = 10.0
COPIED, COPIES = 64 << 20, 7
"""Bytes, more than caches hold, and how often."""
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def copying(nbytes: int, times: int) -> float:
    """Return the median seconds of one thread's copies into memory that was touched before."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    seconds = []
    for _ in range(times):
        began = time.monotonic()
        np.copyto(target, source)
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


def copying_speed() -> float:
    """Return how fast one thread copies memory just now, in GB/s.

    All sides of the comparison are held up by memory, and on a virtual machine it is shared with
    neighbours that nobody sees.
    """
    return COPIED / 1e9 / copying(COPIED, COPIES)


def join_free_memory(order: Path = Path("/proc/sys/vm/compact_memory")) -> bool:
    """Have the kernel bring free memory together; return whether it did, for which it takes root.

    Memory that earlier work left in pieces is slower to read (rounds of 8 x 45 MB by a tenth, on
    a virtual machine), and who starts first gets it: of three equal sides the first.
    """
    with contextlib.suppress(OSError):
        order.write_text("1\n")
        return True
    return False


def settle(busy: Callable[[float], float] = psutil.cpu_percent) -> bool:
    """Return when the machine rests and all is on the disk, or after a few seconds; say whether.

    Some sides go on working when their round is over (NVFlare, for one, writes its model), and a
    sync of anybody's waits for what others have left unwritten: who plays next would pay for it.
    ``busy`` returns per cent of all processors over so many seconds.
    """
    rests = _rests(busy)
    os.sync()
    return rests and _rests(busy)


def _rests(busy: Callable[[float], float]) -> bool:
    looks = round(SETTLE_SECONDS / LOOK_SECONDS)
    return any(busy(LOOK_SECONDS) < QUIET_PERCENT for _ in range(looks))


def machine() -> dict[str, Any]:
    """Return what a reader must know of this machine, and how busy others keep it."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        os.uname().machine,
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": os.uname().release,
        "congestion": CONGESTION.read_text().strip(),
        "load": round(os.getloadavg()[0], 2),
    }
