"""A coordinator without an agent: a real pool and store, a data plane of this process."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from functions.coordinator.service import Coordinator
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.state import StateStore
from functions.coordinator.state_sqlite import SqliteStore
from lifl.errors import RegistrationError
from lifl.store import Pool, PoolGeometry, Seal, SlotKind, SlotRef, SlotState
from lifl.update import Schema
from lifl.wire import Descriptor, Opcode

SECRET = "5a" * 32
MODEL = {
    "w": np.arange(3000, dtype=np.float32) / 100,
    "b": np.ones((2, 3), np.float32),
    "steps": np.array([1, 2], np.int64),
}
SCHEMA = Schema.of(MODEL)


def until(ask: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)
    return answer


class FakeChannel:
    """Descriptors over a socket pair, as whole messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while raw := self._sock.recv(16, socket.MSG_DONTWAIT):
                found.append(Descriptor.unpack(raw))
        return found

    def fileno(self) -> int:
        return self._sock.fileno()


class FakeLink:
    """What :class:`lifl.dataplane.registration.Registration` is to the engine."""

    def __init__(self, agent: FakeAgent, endpoint: int, job: str) -> None:
        self.agent, self.endpoint, self.job = agent, endpoint, job
        self.pool = Pool.attach(os.dup(agent.pool.fd))
        self.tx, self._rx = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._alive, self._peer = socket.socketpair()
        self.channel = FakeChannel(self._rx)
        self.closed = False

    def ready(self) -> None:
        self.agent.link = self

    def lost(self) -> bool:
        return self._peer.fileno() < 0

    def resume(self) -> None:
        raise RegistrationError("this agent knows nobody")

    def fileno(self) -> int:
        return self._alive.fileno()

    def hang_up(self) -> None:
        """End the connection from the agent's side, and take the leases back."""
        self._peer.close()
        self.agent.recover(self.endpoint)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.agent.link = None
            self.agent.recover(self.endpoint)
            for sock in (self.tx, self._rx, self._alive, self._peer):
                sock.close()
            self.pool.close()


class FakeAgent:
    """One node's pool; hands partials to whoever is registered, again and again if need be."""

    def __init__(self) -> None:
        self.pool: Pool = None  # type: ignore[assignment]
        self.link: FakeLink | None = None
        self.endpoints = 100
        self.refuse = False

    def create(self, geometry: dict[str, int]) -> None:
        self.pool = Pool.create("test", PoolGeometry(**geometry))

    def connect(self, job: str) -> Any:
        if self.pool is None or self.refuse:
            raise RegistrationError(f"no domain {job}")
        self.endpoints += 1
        return FakeLink(self, self.endpoints, job)

    def recover(self, endpoint: int) -> None:
        self.pool.recover(endpoint)

    def sweep(self) -> None:
        """Send every sealed partial to the coordinator (again)."""
        if self.link is None:
            return
        for ref in self.pool.find(state=SlotState.SEALED, kind=SlotKind.PARTIAL):
            entry = self.pool.entry(ref.slot)
            self.link.tx.send(Descriptor(Opcode.OBJECT, *ref, entry.assignment).pack())

    def partial(
        self,
        assignment: int,
        updates: dict[int, tuple[int, dict[str, np.ndarray]]],
        *,
        mean: bool = False,
    ) -> SlotRef:
        """Seal the partial of ``{serial: (n, arrays)}`` and send its descriptor."""
        pool, weight = self.pool, float(sum(n for n, _ in updates.values()))
        ref = pool.reserve(SlotKind.PARTIAL, 1, assignment)
        total = sum(n * flat(a).astype(np.float64) for n, a in updates.values())
        pool.floats(ref.slot)[: SCHEMA.float_elements] = total / weight if mean else total
        steps = np.max([a["steps"] for _, a in updates.values()], axis=0)
        start = pool.geometry.meta_bytes - SCHEMA.int_bytes
        pool.meta(ref.slot)[start:] = steps.astype(np.int64).tobytes()
        size = SCHEMA.int_bytes + SCHEMA.float_bytes
        layout = 2 if mean else 0
        cover = sorted(updates)
        pool.seal(ref, 1, Seal(cover[0], weight, start, size, layout, cover=cover))
        self.sweep()
        return ref

    def model(self) -> dict[str, np.ndarray]:
        """Return the newest sealed model."""
        refs = self.pool.find(state=SlotState.SEALED, kind=SlotKind.MODEL)
        entry = max((self.pool.entry(r.slot), r.slot) for r in refs)
        sealed, slot = entry
        raw = self.pool.slot_bytes(slot)[sealed.doc_start : sealed.doc_start + sealed.doc_bytes]
        return load(bytes(raw))

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()


def flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the floats as one vector, in the schema's order."""
    return np.concatenate([arrays[s.name].reshape(-1) for s in SCHEMA.floats])


def update(seed: int) -> dict[str, np.ndarray]:
    """Return one client's arrays."""
    rng = np.random.default_rng(seed)
    return {
        "w": rng.standard_normal(3000).astype(np.float32),
        "b": rng.standard_normal((2, 3)).astype(np.float32),
        "steps": rng.integers(0, 100, 2),
    }


def job_file(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """Return a job file's content: two clients, two rounds, unless ``spec`` says otherwise."""
    full = {"rounds": 2, "clients": {"perRound": 2, "names": ["c0", "c1"]}} | spec
    return {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": full,
    }


class Stage:
    """A coordinator on a fake node, and a test that plays gateway, controller and top."""

    def __init__(self, home: Path, **env: str) -> None:
        self.settings = CoordinatorSettings.from_env(
            {"LIFL_HOME": str(home), "LIFL_PLATFORM_SECRET": SECRET, **env}
        )
        self.agent = FakeAgent()
        self.start()

    def start(self) -> None:
        path = self.settings.state_url.removeprefix("sqlite://")
        self.store: StateStore = SqliteStore(path)
        self.coordinator = Coordinator(self.settings, self.store, self.agent.connect)
        self.coordinator.start()

    def restart(self) -> None:
        self.coordinator.close()
        self.start()

    def close(self) -> None:
        self.coordinator.close()
        self.agent.close()

    def submit(self, document: dict[str, Any] | None = None) -> Any:
        """Submit a job with its model; return it once its model is in the pool."""
        record, _ = self.coordinator.jobs.submit(document or job_file())
        raw = save(MODEL)
        record = self.coordinator.jobs.receive_model(record.name, len(raw), io.BytesIO(raw).read)
        assert record.geometry is not None
        self.agent.create(record.geometry)
        return self.job(record.name)

    def job(self, name: str = "digits") -> Any:
        job = self.coordinator.jobs.get(name)
        until(lambda: self.agent.link is not None and job.model is not None)
        return job

    def plan(self, job: Any, epoch: int = 1) -> None:
        plan = {
            "job": job.name,
            "assignment": job.assignment,
            "epoch": epoch,
            "timing": "eager",
            "roles": [],
            "clients": {},
        }
        job.planned(job.rounds.record.round, plan)
