"""Keeps the standing processes of a local platform running.

Why: any of them may be killed at any moment and must come back without a
person. It starts them, starts again what dies (later and later when it keeps
dying), writes down what runs, and ends everything in order. It must not know
jobs, plans or pools; aggregators are the controller's.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lifl import naming
from lifl.errors import ConfigError
from lifl.platform import probe
from lifl.platform.local import CHECKOUT, base_environment
from lifl.platform.paths import Paths, read_json, write_json
from lifl.platform.processes import ProcessId, become_subreaper, kill_group, stop
from lifl.platform.restarts import Restarts
from lifl.platform.services import START_ORDER, Service, UpConfig, services
from lifl.platform.signals import StopSignals

GRACE_SECONDS = 8.0
PROBE_SECONDS = 0.2
TAIL_LINES = 20


@dataclass(slots=True)
class _Child:
    """One standing process and its record."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    identity: ProcessId | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    restarts: Restarts = field(default_factory=Restarts)
    reported: bool = False
    last_exit: int | None = None


class Supervisor:
    """One run of the local platform, from :meth:`run` to its return."""

    def __init__(
        self,
        config: UpConfig,
        paths: Paths,
        *,
        report: Callable[[str], None],
        on_ready: Callable[[], None],
    ) -> None:
        self._config = config
        self._paths = paths
        self._report = report
        self._on_ready = on_ready
        self._children = [_Child(s) for s in services(config, paths)]
        self._state = "starting"
        self._ready: set[str] = set()

    def run(self) -> None:
        """Start everything, keep it running until SIGTERM, SIGINT or SIGHUP, end everything.

        Raises
        ------
        ConfigError
            if a port is in use.
        """
        check_ports([*self._config.gateway_ports, self._config.coordinator_port])
        become_subreaper()
        _compile_functions()
        with StopSignals() as signals:
            try:
                while not signals.stop_asked:
                    self._reap()
                    self._start_due()
                    self._probe()
                    signals.wait(self._next_event())
            finally:
                self._end()

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [c for c in self._children if c.process is None and c.start_at <= now]
        for child in due:
            self._start(child)
        if due:
            self._write()

    def _start(self, child: _Child) -> None:
        with self._paths.log(child.service.name).open("ab") as log:
            child.process = subprocess.Popen(
                child.service.argv,
                env=child.service.env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        child.identity = ProcessId.of(child.process.pid)
        child.started_at = time.monotonic()

    def _reap(self) -> None:
        """Collect what ended: standing processes, and orphans of theirs that became ours."""
        died = False
        for child in self._children:
            if child.process is None or child.process.poll() is None:
                continue
            died = True
            kill_group(child.process.pid)
            now = time.monotonic()
            delay = child.restarts.died(now - child.started_at)
            child.start_at = now + delay
            child.last_exit = child.process.returncode
            child.process = child.identity = None
            self._ready.discard(child.service.name)
            self._tell_death(child, delay)
        known = {c.process.pid for c in self._children if c.process is not None}
        for pid in _children_of_this_process() - known:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if died:
            self._write()

    def _tell_death(self, child: _Child, delay: float) -> None:
        name = child.service.name
        if not child.restarts.crash_loop:
            child.reported = False
            self._report(f"{name} ended ({_how(child.last_exit)}); starting again in {delay:.1f} s")
        elif not child.reported:
            child.reported = True
            tail = "".join(f"\n    {line}" for line in log_tail(self._paths.log(name)))
            self._report(
                f"{name} keeps ending ({_how(child.last_exit)}); its log's last lines:{tail}"
            )

    def _probe(self) -> None:
        """Find out whether everything serves, until it does once."""
        if self._state == "running":
            return
        for child in self._children:
            name = child.service.name
            if name not in self._ready and child.process is not None and probe.ready(child.service):
                self._ready.add(name)
        if len(self._ready) == len(self._children):
            self._state = "running"
            self._write()
            self._on_ready()

    def _next_event(self) -> float:
        now = time.monotonic()
        due = [c.start_at - now for c in self._children if c.process is None]
        if self._state != "running":
            due.append(PROBE_SECONDS)
        return max(0.0, min(due, default=60.0))

    def _write(self) -> None:
        me = ProcessId.of(os.getpid())
        if me is None:
            raise ConfigError("/proc is not mounted or hides this process")
        write_json(
            self._paths.platform_file,
            self._config.to_json()
            | {
                "state": self._state,
                "pid": me.pid,
                "started": me.started,
                "processes": {c.service.name: _row(c) for c in self._children},
            },
        )

    def _end(self) -> None:
        self._state = "stopping"
        self._write()
        end_all(self._paths)
        stop(_identities(_children_of_this_process()), GRACE_SECONDS)
        for child in self._children:
            if child.process is not None:
                child.process.wait()


def _row(child: _Child) -> dict[str, object]:
    state = "running"
    if child.process is None:
        state = "crash-loop" if child.restarts.crash_loop else "restarting"
    return {
        "kind": child.service.kind,
        "state": state,
        "pid": child.identity.pid if child.identity else None,
        "started": child.identity.started if child.identity else None,
        "restarts": child.restarts.deaths,
        "last_exit": child.last_exit,
    }


def end_all(paths: Paths) -> None:
    """End every process that ``platform.json`` and the aggregators' files name, in order.

    The controller first, so that nothing is started again; agents last, so that
    nobody loses its registration before its end.
    """
    state = read_json(paths.platform_file)
    rows = [] if state is None else list(state["processes"].values())

    def end(kind: str) -> None:
        rows_of_kind = (r for r in rows if r["kind"] == kind and r["pid"] is not None)
        stop([ProcessId.from_json(r) for r in rows_of_kind], GRACE_SECONDS)

    end("controller")
    files = list(paths.aggregators.glob("*.json"))
    stop([ProcessId.from_json(read_json(f)) for f in files], GRACE_SECONDS)
    for path in files:
        path.unlink()
    for kind in reversed(START_ORDER):
        end(kind)
    _clear_after_killed_agents(paths)
    paths.platform_file.unlink(missing_ok=True)


def _clear_after_killed_agents(paths: Paths) -> None:
    """Take what they pinned out of the kernel; an agent that was told to end has done it itself."""
    for directory in paths.run.iterdir() if paths.run.is_dir() else ():
        node = directory.name
        if not naming.pin_dir(paths.run, node).is_mount():
            continue
        with paths.log(f"clear-{node}").open("ab") as log:
            subprocess.run(
                (sys.executable, "-m", "ebpf.agent", "--clear"),
                env=base_environment(os.environ)
                | {"LIFL_RUN_DIR": str(paths.run), "LIFL_NODE": node},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,  # its log says why; the platform has ended all the same
            )


def log_tail(path: Path, lines: int = TAIL_LINES) -> list[str]:
    """Return the last lines of a log, [] if there is none."""
    try:
        with path.open("rb") as f:
            f.seek(max(0, path.stat().st_size - 64 * 1024))
            text = f.read().decode(errors="replace")

    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def check_ports(ports: Iterable[int]) -> None:
    """Raise ConfigError if a loopback port cannot be had."""
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
            except OSError as e:
                raise ConfigError(f"port {port} cannot be used ({e.strerror}); try --port") from e


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _identities(pids: Iterable[int]) -> list[ProcessId]:
    return [i for pid in pids if (i := ProcessId.of(pid)) is not None]


def _children_of_this_process() -> set[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return {int(pid) for pid in text.split()}


def _compile_functions() -> None:
    """Write the byte code that functions of other users cannot write for themselves."""
    if os.access(CHECKOUT, os.W_OK):
        for part in ("lifl", "functions"):
            compileall.compile_dir(CHECKOUT / part, quiet=2)
