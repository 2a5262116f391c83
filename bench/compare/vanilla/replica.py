"""One replica of the function: gunicorn as the image runs it, and its sidecar.

Why: a start from zero has to be a real one. The listening socket is made first and handed on, so
that nobody has to guess a port or ask again and again whether the function is there: the first
question waits in its backlog until the worker answers. It must not decide when to start.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.compare.crew import ROOT, SETTINGS
from bench.compare.vanilla import network, sidecar, web
from bench.compare.vanilla.stream import Stream

AGGREGATOR = "functions.aggregator.app:app"
CONFIG = "python:functions.aggregator.gunicorn_conf"
START_SECONDS = 120.0
END_SECONDS = 20.0
OPEN_SUMS = 256


class Replica:
    """The processes of one replica, started at once. ``concurrency`` 0 means no limit."""

    def __init__(self, name: str, concurrency: int, log: Path, app: str = AGGREGATOR) -> None:
        self.name = name
        self.busy = 0
        """Requests that it has; whoever sends them keeps count."""
        self.sums: set[str] = set()
        """Subjects of the sums that it holds."""
        self.start_seconds = 0.0
        self._log = log
        self._started = time.monotonic()
        self.sidecar = sidecar.make(name, concurrency, log)
        with self.sidecar.listener as listener, log.open("ab") as out:
            self._port: int = listener.getsockname()[1]
            fd = listener.fileno()
            self._function = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "-c", CONFIG, "-b", f"fd://{fd}", app],
                pass_fds=(fd,),
                cwd=ROOT,
                env=os.environ
                | SETTINGS
                | {"LIFL_NAME": name, "LIFL_MAX_PARTIALS": str(OPEN_SUMS)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            self.sidecar.start()
        except BaseException:
            self._function.kill()
            self._function.wait()
            raise

    def await_ready(self) -> None:
        """Return when the function has said that it is ready.

        Raises
        ------
        RuntimeError
            if it does not within two minutes; it quotes the log.
        """
        try:
            with Stream(network.connect(self._port, self.sidecar.namespace)) as stream:
                stream.sock.settimeout(START_SECONDS)
                stream.sendall(web.request("/readyz", 0, {}, method="GET"))
                status, _ = web.read_response(stream)
        except (OSError, ValueError) as e:
            raise RuntimeError(f"{self.name} does not start: {e}; {self._tail()}") from e
        if status != 200:
            raise RuntimeError(f"{self.name} is not ready ({status}): {self._tail()}")
        self.sidecar.await_ready()
        self.start_seconds = time.monotonic() - self._started

    def connect(self) -> Stream:
        """Return a connection to its sidecar."""
        return Stream(network.connect(self.sidecar.port, self.sidecar.namespace))

    def end(self) -> None:
        """Ask both processes to end."""
        with contextlib.suppress(ProcessLookupError):
            self._function.terminate()
        self.sidecar.end()

    def wait(self) -> None:
        """Wait for both to have ended, and have them ended if they do not."""
        try:
            self._function.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._function.kill()
            self._function.wait()
        self.sidecar.wait(END_SECONDS)

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return " / ".join(self._log.read_text(errors="replace").splitlines()[-3:])
        return "no log"
