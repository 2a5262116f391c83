"""NVFlare's simulator with FedAvg and one client process a client.

Why: it is the way to run NVFlare on one machine that its users know, and the one whose figures are
published. The round is NVFlare's own; only its beginning is told and its end reported. Clients
are started by the simulator but leave the group at birth (``birth/sitecustomize.py``), so that
CPU and memory are the server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.compare import cgroups, peer
from bench.compare.api import Round
from bench.compare.wire import Wire

VENV = peer.Venv("nvflare", "nvflare")
BIRTH = Path(__file__).with_name("birth")
UP_SECONDS = 45.0
"""It takes ten; now and then one of its clients is reset at the start, and it waits for ever."""
ROUND_SECONDS = 600.0


class Stuck(RuntimeError):
    """The simulator did not come up in time."""


class NVFlare(peer.Peer):
    """The simulator in the group, its clients' processes outside of it."""

    name = "nvflare"
    venv = VENV
    title = "NVFlare (simulator, FedAvg)"
    stand_ins = (
        "the simulator in place of a deployment: no TLS, server and job in one process (flatters "
        "NVFlare)",
        "an executor in place of a training script; updates are ready numpy arrays in the "
        "client's process (flatters NVFlare)",
        "loopback in place of a network; the round ends when FedAvg has the model in memory, "
        "not on disk (flatters NVFlare)",
        "sending the model to clients is outside of the round, as for every side",
        "clients leave the control group at birth; where processes are counted by their tree they "
        "cannot, and are counted (wrongs NVFlare)",
    )

    def _start(self, stack: contextlib.ExitStack) -> None:
        try:
            self._come_up(stack)
        except Stuck:
            self._come_up(stack)

    def _come_up(self, stack: contextlib.ExitStack) -> None:
        """Start it once; raises Stuck or RuntimeError, with the simulator ended."""
        with contextlib.ExitStack() as own:
            home = Path(tempfile.mkdtemp(prefix="lifl-nvflare-"))
            own.callback(shutil.rmtree, home, ignore_errors=True)
            (home / "document").write_bytes(self._document)
            write_job(home, self._load.clients)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(home / "told"))
                listener.listen(self._load.clients + 1)
                simulator = self._simulator(home)
                own.callback(peer.end, simulator)
                wires = self._accept(listener, simulator, home, own)
            self._server = wires.pop("server")
            self._clients = [wires[i] for i in range(self._load.clients)]
            own.callback(self._hang_up, simulator)
            stack.enter_context(own.pop_all())

    def _simulator(self, home: Path) -> subprocess.Popen[bytes]:
        number = str(self._load.clients)
        command = [str(VENV.programs / "nvflare"), "simulator", str(home / "job")]
        settings = VENV.settings(
            PYTHONPATH=f"{BIRTH}{os.pathsep}{VENV.settings()['PYTHONPATH']}",
            LIFL_COMPARE_OUTSIDE=os.pathsep.join(map(str, outside())),
        )
        with (home / "log").open("wb") as output, self._group.adopt():
            return subprocess.Popen(
                [*command, "-w", str(home / "workspace"), "-n", number, "-t", number],
                cwd=home,
                env=dict(os.environ) | settings,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _accept(
        self,
        listener: socket.socket,
        simulator: subprocess.Popen[bytes],
        home: Path,
        stack: contextlib.ExitStack,
    ) -> dict[Any, Wire]:
        """Return the wires of those that have called: ``server``, and clients by number."""
        wires: dict[Any, Wire] = {}
        deadline = time.monotonic() + UP_SECONDS
        listener.settimeout(1.0)
        while len(wires) < self._load.clients + 1:
            try:
                connected, _ = listener.accept()
            except TimeoutError:
                ended = simulator.poll() is not None
                if ended or time.monotonic() > deadline:
                    said = f"NVFlare's simulator did not start: {peer.tail(home / 'log')}"
                    raise (RuntimeError if ended else Stuck)(said) from None
                continue
            connected.settimeout(None)
            wire = Wire(connected.detach(), "a process of NVFlare's")
            stack.callback(wire.close)
            who = wire.hear()["who"]
            wire.who = f"NVFlare's {who if who == 'server' else f'client {who}'}"
            wires[who] = wire
        return wires

    def _hang_up(self, simulator: subprocess.Popen[bytes]) -> None:
        """Let FedAvg end its run, which ends clients and simulator in order."""
        self._server.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            simulator.wait(peer.END_SECONDS)

    def play(self, updates: int | None = None) -> Round:
        """Play a round; clients are whichever NVFlare samples."""
        number = self._load.clients if updates is None else updates
        self._server.tell(updates=number)
        chosen = peer.await_holders(self._clients, self._server, number, ROUND_SECONDS)
        before = self._group.usage()
        start = time.monotonic()
        for client, arrival in zip(chosen, self._load.arrivals, strict=False):
            self._clients[client].tell(at=start + arrival)
        model = self._server.hear(ROUND_SECONDS)
        used = self._group.usage().since(before)
        handed = [self._clients[client].hear()["handed"] for client in chosen]
        self._check(chosen, model)
        return Round(
            wall=model["ended"] - start,
            last_byte=max(handed) - start,  # NVFlare has it; when it is sent, nobody tells
            updates=number,
            marks={
                "cpu": used.cpu,
                "cpu_user": used.user,
                "all_added": model["began"] - start,
                "averaging": model["ended"] - model["began"],
            },
        )


def outside() -> list[Path]:
    """Return the control groups of this thread, to which those go who leave the group."""
    mounts = Path("/proc/self/mountinfo").read_text()
    own = Path("/proc/thread-self/cgroup").read_text()
    found = []
    for hierarchy in cgroups.parse(mounts):
        with contextlib.suppress(cgroups.NoCgroups):
            found.append(hierarchy.place(own))
    return found


def write_job(home: Path, clients: int) -> None:
    """Write a job of the simulator: FedAvg that is told, and executors that are ready."""
    told = {"told": str(home / "told"), "document": str(home / "document")}
    args = told | {"clients": clients}
    server = {"id": "fedavg", "path": "told.ToldFedAvg", "args": args}
    executor = {"path": "ready_executor.ReadyExecutor", "args": told}
    rest = {"format_version": 2, "task_data_filters": [], "task_result_filters": []}
    files = {
        "meta.json": {
            "name": "told",
            "resource_spec": {},
            "min_clients": clients,
            "deploy_map": {"app": ["@ALL"]},
        },
        "app/config/config_fed_server.json": rest | {"components": [], "workflows": [server]},
        "app/config/config_fed_client.json": rest
        | {"components": [], "executors": [{"tasks": ["train"], "executor": executor}]},
    }
    for name, content in files.items():
        path = home / "job" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2))
    custom = home / "job" / "app" / "custom"  # where NVFlare takes classes of its users from
    custom.mkdir()
    for name in ("told.py", "ready_executor.py"):
        shutil.copy(Path(__file__).with_name(name), custom)
