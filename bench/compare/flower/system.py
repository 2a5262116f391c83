"""Flower as its users deploy it: SuperLink and ServerApp with FedAvg, over the HTTP Fleet API.

Why: the round is Flower's own from end to end; only its beginning is told (clients that hold
their updates are released together) and its end reported (FedAvg has returned the new model).
Sending the model to the clients comes before a round, as it does for every side, so CPU is counted
from release to model and given as the mark ``cpu``; what a caller counts around ``play`` has both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from bench.compare import peer
from bench.compare.api import Round
from bench.compare.crew import Crew
from bench.compare.flower.venv import VENV, settings
from bench.compare.wire import Wire
from bench.ports import closed_ports

APP = Path(__file__).with_name("app")
UP_SECONDS = 120.0
ROUND_SECONDS = 600.0
END_SECONDS = 15.0


class Flower(peer.Peer):
    """SuperLink, SuperExec and ServerApp in the group; light clients outside of it."""

    name = "flower"
    venv = VENV
    title = "Flower (SuperLink, ServerApp, FedAvg)"
    stand_ins = (
        "clients call the SuperNode's Fleet functions themselves and skip its polling and its "
        "ClientApp process; chunks and hashes are ready before the round (flatters Flower)",
        "no TLS, no node authentication, state in memory, not in a database (flatters Flower)",
        "loopback in place of a network; the round ends when FedAvg has the model in memory, "
        "not on disk (flatters Flower)",
        "sending the model to clients is outside of the round, as for every side",
    )

    def _start(self, stack: contextlib.ExitStack) -> None:
        home = Path(tempfile.mkdtemp(prefix="lifl-flower-"))
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        address = self._start_superlink(home, stack)
        clients = Crew(
            "bench.compare.flower.light_client",
            self._load.clients,
            self._document,
            python=VENV.python,
            settings=settings(home),
            log=home / "clients.log",
        )
        self._clients = stack.enter_context(clients).wires
        for i, client in enumerate(self._clients):
            client.tell(client=i, address=address)
        for client in self._clients:
            client.hear(UP_SECONDS)
        self._app = self._start_app(home, stack)

    def _start_superlink(self, home: Path, stack: contextlib.ExitStack) -> str:
        port = closed_ports(1)
        log = home / "superlink.log"
        command = [VENV.programs / "flower-superlink", "--insecure", "--host", "127.0.0.1"]
        with log.open("wb") as output, self._group.adopt():
            self._superlink = subprocess.Popen(
                [*map(str, command), "--port", str(port)],
                cwd=home,
                env=dict(os.environ) | settings(home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        stack.callback(peer.end, self._superlink)
        _await_port(port, self._superlink, log)
        config = (
            f'[superlink]\ndefault = "local"\n[superlink.local]\naddress = "127.0.0.1:{port}"\n'
        )
        (home / "config.toml").write_text(config + "insecure = true\n")
        return f"127.0.0.1:{port}"

    def _start_app(self, home: Path, stack: contextlib.ExitStack) -> Wire:
        """Submit the app as a user would, and wait until it has called back."""
        app, told, document = home / "app", home / "told", home / "document"
        shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
        document.write_bytes(self._document)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(told))
            listener.listen(1)
            config = f'told="{told}" document="{document}" clients={self._load.clients}'
            done = subprocess.run(
                [str(VENV.programs / "flwr"), "run", str(app), "local", "--run-config", config],
                cwd=home,
                env=dict(os.environ) | settings(home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=UP_SECONDS,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"flwr run failed: {done.stdout}{done.stderr}")
            listener.settimeout(UP_SECONDS)
            try:
                connected, _ = listener.accept()
            except TimeoutError:
                log = peer.tail(home / "superlink.log")
                raise RuntimeError(f"Flower's ServerApp did not start: {log}") from None
        connected.settimeout(None)
        wire = Wire(connected.detach(), "Flower's ServerApp")
        stack.callback(wire.close)
        wire.hear(UP_SECONDS)
        return wire

    def play(self, updates: int | None = None) -> Round:
        """Play a round; clients are whichever Flower samples."""
        number = self._load.clients if updates is None else updates
        chosen = self._dispatch(number)
        before = self._group.usage()
        start = time.monotonic()
        for client, arrival in zip(chosen, self._load.arrivals, strict=False):
            self._clients[client].tell(at=start + arrival)
        model = self._app.hear(ROUND_SECONDS)
        used = self._group.usage().since(before)
        sent = [self._clients[client].hear() for client in chosen]
        self._check(chosen, model)
        self._check_sent(min(s["bytes"] for s in sent))
        return Round(
            wall=model["ended"] - start,
            last_byte=max(s["last_byte"] for s in sent) - start,
            updates=number,
            marks={
                "cpu": used.cpu,
                "cpu_user": used.user,
                "all_pulled": model["began"] - start,
                "averaging": model["ended"] - model["began"],
            },
        )

    def _dispatch(self, number: int) -> list[int]:
        """Have Flower send the model to as many clients; return which hold an update for it."""
        self._app.tell(updates=number)
        for client in self._clients:
            client.tell(do="pull")
        holding = peer.await_holders(self._clients, self._app, number, ROUND_SECONDS)
        resting = [client for i, client in enumerate(self._clients) if i not in holding]
        for client in resting:
            client.tell(do="rest")
        for client in resting:
            client.hear()
        return holding

    def _check_sent(self, least: int) -> None:
        if least < 4 * self._elements:
            raise RuntimeError(
                f"{self.name}: a client sent {least} bytes of {4 * self._elements}: parts that are "
                "stored already were left out, which no real update's would be"
            )


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Flower's SuperLink did not start: {peer.tail(log)}")
        time.sleep(0.05)  # it says in no other way that it is there
