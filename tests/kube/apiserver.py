"""A real Kubernetes API server, with its etcd, for as long as a test needs one.

Why: what the controller asks of a cluster (RBAC, TokenRequest, watches, patches, webhooks) is
answered by the programs that answer it in a real one. Nothing but the API runs: no
controller-manager (a deleted namespace stays "Terminating", owners' dependants and default service
accounts are nobody's job), no scheduler, no kubelet. It must know nothing about LIFL.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Self

from .authority import Authority, new_key

HOST = "127.0.0.1"
ISSUER = "https://kubernetes.default.svc"
PREFIX = "lifl-kube-"
ADMINS = "system:masters"  # the group that RBAC lets do everything
READY_WITHIN_S = 120.0
"""Time in which each of the two programs has to be ready; both need a few seconds of processor."""
MEMORY_NEEDED = 512 << 20
"""Bytes free in ``/dev/shm`` from which on etcd's files (two logs of 64 MB and more) go there."""


class ServerFailedError(RuntimeError):
    """A program ended or was not ready in time; the message has the end of its log."""


def free_ports(count: int) -> tuple[int, ...]:
    """Return loopback ports that nothing listens at now.

    They are below those that the kernel gives to outgoing connections, or else a client's next
    connection could take the port of a server that is stopped for a while.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = range(max(1024, lowest - 16384), lowest) if lowest > 2048 else range(20000, 30000)
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(candidates, len(candidates)):
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                ports.append(port)
            if len(ports) == count:
                return tuple(ports)
    raise ServerFailedError(f"fewer than {count} of the ports {candidates} are free at {HOST}")


class ApiServer:
    """etcd and kube-apiserver on free loopback ports, with RBAC and the default admission.

    Use it as a context manager; on leaving, the processes and the directory are gone. Both
    processes also end with this one, however it ends. Start it from the main thread: the kernel
    counts the end of the thread that started a process as the end of the parent.

    ``ServiceAccount`` admission is off, since nobody makes the default accounts it asks for.

    Args:
        assets: directory of ``etcd`` and ``kube-apiserver`` (``scripts/kube-assets`` prints one).
        arguments: further ones for kube-apiserver.

    Attributes:
        url: where the API is; the same after ``stop`` and ``start``.
        directory: of everything that the server has on disk; in memory where there is room.
    """

    def __init__(self, assets: Path, arguments: Sequence[str] = ()) -> None:
        self.assets = assets
        self.directory = Path()
        self.url = ""
        self._arguments = tuple(arguments)
        self._authority = Authority()
        self._ports: tuple[int, ...] = (0, 0)  # of kube-apiserver and etcd
        self._lock = -1
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._kubeconfigs: dict[tuple[str, ...], Path] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._leave)
            api, etcd = self._ports = free_ports(2)
            self.url = f"https://{HOST}:{api}"
            self.directory, self._lock = _new_directory()
            self._write_keys()
            self._launch("etcd", self._etcd_arguments(etcd))
            self._await("etcd", self._etcd_ready)
            self.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    @property
    def ca(self) -> Path:
        """The certificate that the server's own can be verified with."""
        return self.directory / "ca.crt"

    @property
    def admin(self) -> Path:
        """A kubeconfig of someone who may do everything."""
        return self.kubeconfig("admin", [ADMINS])

    @property
    def pids(self) -> dict[str, int]:
        """The processes that run, by program."""
        return {program: process.pid for program, process in self._running.items()}

    def kubeconfig(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig with a certificate that makes its holder ``user`` in ``groups``."""
        path = self._kubeconfigs.get((user, *groups))
        if path is None:
            certificate, key = self._authority.client(user, groups)
            path = self.directory / f"kubeconfig-{len(self._kubeconfigs)}"
            path.touch(0o600)
            path.write_text(json.dumps(self._config(user, certificate, key)))  # JSON is YAML
            self._kubeconfigs[(user, *groups)] = path
        return path

    def start(self) -> None:
        """Start kube-apiserver (after ``stop``) and return when it is ready; etcd runs already."""
        api, etcd = self._ports
        self._launch("kube-apiserver", [*self._api_arguments(api, etcd), *self._arguments])
        self._await("kube-apiserver", self._api_ready)

    def stop(self) -> None:
        """Kill kube-apiserver at once: connections break, new ones are refused, etcd has it all."""
        self._kill("kube-apiserver")

    def log(self, program: str = "kube-apiserver") -> str:
        """Return what a program has printed so far."""
        return (self.directory / f"{program}.log").read_text(errors="replace")

    def _leave(self) -> None:
        for program in ("kube-apiserver", "etcd"):
            self._kill(program)
        if self._lock >= 0:
            shutil.rmtree(self.directory)
            os.close(self._lock)
        self.directory, self._lock = Path(), -1
        self._kubeconfigs.clear()

    def _write_keys(self) -> None:
        serving_certificate, serving_key = self._authority.server()
        for name, content in {
            "ca.crt": self._authority.pem,
            "serving.crt": serving_certificate,
            "serving.key": serving_key,
            "accounts.key": new_key(),
        }.items():
            (self.directory / name).write_bytes(content)  # in a directory that only we may enter

    def _config(self, user: str, certificate: bytes, key: bytes) -> dict[str, object]:
        def text(pem: bytes) -> str:
            return base64.b64encode(pem).decode()

        cluster = {"server": self.url, "certificate-authority-data": text(self._authority.pem)}
        credentials = {"client-certificate-data": text(certificate), "client-key-data": text(key)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }

    def _etcd_arguments(self, port: int) -> list[str]:
        url = f"http://{HOST}:{port}"
        return [
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://{HOST}:0",
            "--unsafe-no-fsync",
            "--logger=zap",
            "--log-level=warn",
        ]

    def _api_arguments(self, port: int, etcd: int) -> list[str]:
        return [
            f"--etcd-servers=http://{HOST}:{etcd}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={port}",
            "--endpoint-reconciler-type=none",  # it takes no loopback address
            f"--cert-dir={self.directory}",
            f"--tls-cert-file={self.directory / 'serving.crt'}",
            f"--tls-private-key-file={self.directory / 'serving.key'}",
            f"--client-ca-file={self.ca}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self.directory / 'accounts.key'}",
            f"--service-account-signing-key-file={self.directory / 'accounts.key'}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--allow-privileged=true",
        ]

    def _launch(self, program: str, arguments: Sequence[str]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(f"{program} would end with this thread: start it in the main one")
        if program in self._running:
            raise RuntimeError(f"{program} runs already")
        command = ["setpriv", "--pdeathsig", "KILL", "--", str(self.assets / program), *arguments]
        with (self.directory / f"{program}.log").open("ab") as log:
            self._running[program] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the tests, which then end it
            )

    def _kill(self, program: str) -> None:
        process = self._running.pop(program, None)
        if process is not None:
            process.kill()
            process.wait()

    def _await(self, program: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not ready():
            status = self._running[program].poll()
            if status is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            what = f"not ready in {READY_WITHIN_S:.0f} s" if status is None else f"ended ({status})"
            end = "\n".join(self.log(program).splitlines()[-20:])
            self._kill(program)
            raise ServerFailedError(f"{program} {what}; the end of its log:\n{end}")

    def _etcd_ready(self) -> bool:
        return _answers(HTTPConnection(HOST, self._ports[1], timeout=5), "/health")

    def _api_ready(self) -> bool:
        tls = ssl.create_default_context(cafile=str(self.ca))
        return _answers(HTTPSConnection(HOST, self._ports[0], timeout=5, context=tls), "/readyz")


def _answers(connection: HTTPConnection, path: str) -> bool:
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False


def _new_directory() -> tuple[Path, int]:
    """Make a directory that is locked while this process lives; remove those of dead ones."""
    memory, parent = Path("/dev/shm"), Path(tempfile.gettempdir())
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= MEMORY_NEEDED:
        parent = memory
    gate = _lock(parent, fcntl.LOCK_EX)  # or another process took ours for a dead one's
    try:
        for old in parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):  # it is in use, or someone else's
                os.close(_lock(old))
                shutil.rmtree(old)
        new = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        return new, _lock(new)
    finally:
        os.close(gate)


def _lock(directory: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
