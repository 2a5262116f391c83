"""Signals as something to wait for.

Why: the supervisor and the controller wait for signals, deaths and messages in
one place. Main thread only.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket


class StopSignals:
    """Signals as a readable descriptor, for the length of a ``with`` block."""

    _STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self) -> None:
        self.stop_asked = False

    def __enter__(self) -> StopSignals:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._old = {n: signal.signal(n, self._stop) for n in self._STOP}
        self._old[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        return self

    def _stop(self, *_: object) -> None:
        self.stop_asked = True

    def fileno(self) -> int:
        """Return what is readable after a signal or :meth:`wake`."""
        return self._read.fileno()

    def wake(self) -> None:
        """Make the descriptor readable; for other threads."""
        with contextlib.suppress(BlockingIOError):
            self._write.send(b"\0")

    def drain(self) -> None:
        """Make the descriptor wait for the next signal."""
        with contextlib.suppress(BlockingIOError):
            while self._read.recv(4096):
                pass

    def wait(self, seconds: float) -> None:
        """Return on a signal or after ``seconds``."""
        select.select([self._read], [], [], seconds)
        self.drain()

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()
