"""The broker's memory: a Redis server of its own.

Why: events wait in Redis Streams between ingress and dispatcher. It listens on loopback as it
would on a pod's network, to those who know its password, writes nothing to disk and holds no more
than it is allowed. Its memory is in huge pages where the kernel gives them: a payload is put into
new memory three times on its way, and page by page that was more than half of Redis's time here.
All else is as Redis comes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from types import TracebackType
from typing import Self

from bench.compare.api import Group
from bench.compare.vanilla import resp
from bench.compare.vanilla.resp import Address
from bench.ports import closed_ports

END_SECONDS = 10.0
_CONFIG = """
port {}
bind 127.0.0.1
requirepass {}
maxmemory {}
maxmemory-policy noeviction
appendonly no
save ""
disable-thp no
"""
HUGE_PAGES = {"MALLOC_CONF": "thp:always"}
"""For jemalloc, which Redis is built with: it asks for huge pages where one has to ask."""


class Redis:
    """A running server; ``address`` is what :func:`.resp.connect` takes. A context manager.

    ``most`` are the bytes it may hold.

    Raises
    ------
    RuntimeError
        when entered, if there is none or it does not start; it says why.
    """

    def __init__(self, group: Group, most: int) -> None:
        self._group = group
        self._most = most

    def __enter__(self) -> Self:
        if (program := shutil.which("redis-server")) is None:
            raise RuntimeError(
                "the vanilla side needs a broker: apt-get install redis-server, or make setup"
            )
        self.address = Address(closed_ports(1), secrets.token_hex(16))
        with self._group.adopt():
            self._process = subprocess.Popen(
                [program, "-"],
                cwd="/",
                env=os.environ | HUGE_PAGES,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        try:
            self._await_ready(_CONFIG.format(*self.address, self._most))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _await_ready(self, config: str) -> None:
        """Tell it what to be and read what it says until it is ready; it says little later."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(config.encode())
        self._process.stdin.close()
        said = []
        for line in self._process.stdout:
            said.append(line.decode(errors="replace").strip())
            if "eady to accept connections" in said[-1]:
                return
        raise RuntimeError(f"redis-server ended: {' / '.join(said[-3:])}")

    def version(self) -> str:
        """Return the server's version."""
        with resp.connect(self.address) as stream:
            told = resp.ask(stream, "INFO", "server")
        found = re.search(rb"redis_version:(\S+)", told if isinstance(told, bytes) else b"")
        return found[1].decode() if found else "unknown"
