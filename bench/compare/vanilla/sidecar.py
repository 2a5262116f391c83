"""The reverse proxy in front of each replica: Knative's queue-proxy if one is named, else HAProxy.

Why: every request of a Knative Service passes a proxy within the pod that limits concurrency, so
the comparison has a real one too. ``LIFL_COMPARE_QUEUE_PROXY`` names a queue-proxy binary
(``knative.dev/serving/cmd/queue``), which needs root for a network namespace of its own.
Without it HAProxy stands in: packaged everywhere, it passes bodies on as they come, never
through a file, here with the buffers that Go's reverse proxy has, which queue-proxy is made of
(32 KB; HAProxy comes with 16). Both get the function's port and how many requests it takes at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from bench.compare.vanilla import network
from lifl.errors import ConfigError

SETTING = "LIFL_COMPARE_QUEUE_PROXY"
SERVING_PORT = 8012
READY_SECONDS = 20.0
POLL_SECONDS = 0.005
TIMEOUT_SECONDS = 600
_HAPROXY = """
global
  nbthread 1
  tune.bufsize 32768
  maxconn 512
defaults
  mode http
  option http-no-delay
  timeout connect 10s
  timeout client {timeout}s
  timeout server {timeout}s
  timeout queue {timeout}s
frontend pod
  bind fd@{fd}
  default_backend function
backend function
  server function 127.0.0.1:{port}{limit}
"""


class Sidecar(Protocol):
    """A proxy for one function. ``namespace`` is where its sockets are (None: here)."""

    port: int
    namespace: int | None
    process: subprocess.Popen[bytes]
    listener: socket.socket
    """Where the function is to listen; hand it on, then close it."""

    def start(self) -> None:
        """Start it, once the function's socket listens."""

    def await_ready(self) -> None:
        """Return when it takes connections; raises RuntimeError if it does not."""

    def end(self) -> None:
        """Ask it to end."""

    def wait(self, seconds: float) -> None:
        """Wait for its end, and have it ended if it does not come."""


def make(name: str, concurrency: int, log: Path) -> Sidecar:
    """Return the sidecar of replica ``name``; ``concurrency`` 0 means no limit.

    Raises
    ------
    ConfigError
        if there is no proxy; it says how to get one.
    """
    named = os.environ.get(SETTING, "")
    return QueueProxy(named, name, concurrency, log) if named else HaProxy(concurrency, log)


def about() -> tuple[str, str, str]:
    """Return the proxy's name and version, and what it stands in for ("" if it is the real one).

    Raises
    ------
    ConfigError
        if there is none.
    """
    if named := os.environ.get(SETTING, ""):
        if not os.access(named, os.X_OK):
            raise ConfigError(f"{SETTING}={named}: no program is there")
        return "queue-proxy", Path(named).name, ""
    told = subprocess.run([_haproxy(), "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\S+)", told)
    return "haproxy", found[1] if found else "unknown", "HAProxy in place of Knative's queue-proxy"


def _haproxy() -> str:
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise ConfigError(
            f"the vanilla side needs a reverse proxy: apt-get install haproxy, or name a Knative "
            f"queue-proxy in {SETTING}"
        )
    return program


class _Base:
    process: subprocess.Popen[bytes]

    def end(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for its end, and have it ended if it does not come."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class HaProxy(_Base):
    """The stand-in."""

    namespace: int | None = None

    def __init__(self, concurrency: int, log: Path) -> None:
        self._program, self._log = _haproxy(), log
        self._limit = f" maxconn {concurrency}" if concurrency else ""
        self.listener = network.listen(None)
        self._function_port = self.listener.getsockname()[1]
        self._own = network.listen(None)
        self.port: int = self._own.getsockname()[1]

    def start(self) -> None:
        """Start it on the socket that listens already."""
        config = os.memfd_create("haproxy.cfg")
        try:
            fd = self._own.fileno()
            text = _HAPROXY.format(
                fd=fd, port=self._function_port, limit=self._limit, timeout=TIMEOUT_SECONDS
            )
            os.write(config, text.encode())
            with self._log.open("ab") as out:
                self.process = subprocess.Popen(
                    [self._program, "-db", "-f", f"/dev/fd/{config}"],
                    pass_fds=(config, fd),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                )
        finally:
            os.close(config)
            self._own.close()

    def await_ready(self) -> None:
        """Return at once: connections wait in the backlog of the socket that it was given."""
        if self.process.poll() is not None:
            raise RuntimeError(f"haproxy ended: {self._log.read_text(errors='replace')[-400:]}")


class QueueProxy(_Base):
    """The real one, in a network of its own."""

    port: int = SERVING_PORT

    def __init__(self, program: str, name: str, concurrency: int, log: Path) -> None:
        self._program, self._name, self._log = program, name, log
        self._concurrency = concurrency
        try:
            self.namespace: int | None = network.make()
        except PermissionError as e:
            raise ConfigError(
                f"{SETTING}: queue-proxy needs a network of its own, which this user may not make"
            ) from e
        self.listener = network.listen(self.namespace)
        self._function_port = self.listener.getsockname()[1]

    def start(self) -> None:
        """Start it in its network."""
        probe = {"tcpSocket": {"port": self._function_port, "host": "127.0.0.1"}}
        settings = {
            "CONTAINER_CONCURRENCY": str(self._concurrency),
            "QUEUE_SERVING_PORT": str(SERVING_PORT),
            "QUEUE_SERVING_TLS_PORT": "8112",
            "USER_PORT": str(self._function_port),
            "REVISION_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
            "SERVING_READINESS_PROBE": json.dumps(probe | {"successThreshold": 1}),
            "SERVING_LOGGING_CONFIG": "",
            "SERVING_LOGGING_LEVEL": "error",
            "SERVING_NAMESPACE": "default",
            "SERVING_SERVICE": "aggregator",
            "SERVING_CONFIGURATION": "aggregator",
            "SERVING_REVISION": "aggregator-00001",
            "SERVING_POD": self._name,
            "SERVING_POD_IP": "127.0.0.1",
        }
        with network.inside(self.namespace), self._log.open("ab") as out:
            self.process = subprocess.Popen(
                [self._program],
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def await_ready(self) -> None:
        """Return when it takes connections."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                network.connect(SERVING_PORT, self.namespace).close()
                return
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = self._log.read_text(errors="replace")[-400:]
                    raise RuntimeError(f"queue-proxy does not serve: {tail}") from None
                time.sleep(POLL_SECONDS)  # it tells nobody when it listens

    def end(self) -> None:
        """Kill it: told to end it lingers for half a minute, for load balancers to hear."""
        self.process.kill()

    def wait(self, seconds: float) -> None:
        """Wait for its end and give up its network."""
        super().wait(seconds)
        if self.namespace is not None:
            os.close(self.namespace)
            self.namespace = None
