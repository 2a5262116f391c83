"""How fast an aggregator is there: a new process, and a role change of a warm one.

``cold_start_ms``: from the process's start until the agent has it registered and
ready; it registers with its sum kernel loaded. ``reuse_ms``: from the new plan at
the agent until an object that only the new role could have made reaches the
coordinator, so routes, role row and one small aggregation are in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, at_most
from lifl import naming
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.registration import Registration
from lifl.errors import Unavailable
from lifl.platform import doctor
from lifl.platform.api import Aggregator
from lifl.platform.local import LocalPlatform, base_environment
from lifl.platform.paths import Paths
from lifl.store import PoolGeometry, Seal, SlotKind, SlotRef
from lifl.topology import Level, Plan, Role, Timing
from lifl.update import Schema, TensorSpec
from lifl.wire import Descriptor, Opcode

JOB, NODE = "startup", "node-0"
COLD = 9
CHANGES = 21
SCHEMA = Schema([TensorSpec("w", "F32", (1024,))])
PATIENCE = 30.0


def run() -> list[Figure]:
    """Return ``cold_start_ms`` and ``reuse_ms``."""
    with _agent() as (paths, admin, dataplane):
        pages = -(-SCHEMA.float_bytes // 4096) * 4096
        admin.create_domain(JOB, os.geteuid(), PoolGeometry(16, pages, 16384))
        platform = LocalPlatform(paths, dataplane=dataplane, coordinator_url="http://127.0.0.1:9")
        names = [f"agg-{i}" for i in range(COLD + 1)]
        try:
            cold = [_cold_start(platform, admin, name) for name in names]
            platform.stop(names[2:])
            reuse = _role_changes(paths, admin, names[:2])
        finally:
            platform.stop(names)
    return [
        Figure("cold_start_ms", "ms", cold[1:], at_most(400), {"dataplane": dataplane}),
        Figure("reuse_ms", "ms", reuse, at_most(5)),
    ]


@contextlib.contextmanager
def _agent() -> Iterator[tuple[Paths, AgentAdmin, str]]:
    paths = Paths(Path(tempfile.mkdtemp(prefix="lifl-bench-", dir="/tmp")))
    paths.create([NODE])
    dataplane = doctor.default_dataplane()[0]
    env = base_environment(os.environ) | {
        "LIFL_RUN_DIR": str(paths.run),
        "LIFL_NODE": NODE,
        "LIFL_DATAPLANE": dataplane,
    }
    agent = subprocess.Popen([sys.executable, "-m", "ebpf.agent"], env=env, cwd="/")
    admin = AgentAdmin(naming.admin_socket(paths.run, NODE))
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                admin.info()
                break
            except Unavailable:
                if agent.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield paths, admin, dataplane
    finally:
        admin.close()
        agent.terminate()
        agent.wait()
        shutil.rmtree(paths.home, ignore_errors=True)


def _cold_start(platform: LocalPlatform, admin: AgentAdmin, name: str) -> float:
    start = time.monotonic()
    platform.start(Aggregator(name, JOB, NODE), os.geteuid())
    while not any(e["name"] == name and e["ready"] for e in admin.endpoints()):
        if time.monotonic() - start > PATIENCE:
            raise TimeoutError(f"{name} did not register")
        time.sleep(0.002)
    return (time.monotonic() - start) * 1e3


def _role_changes(paths: Paths, admin: AgentAdmin, names: list[str]) -> list[float]:
    """Make the two aggregators change roles (top, idle) again and again."""
    socket_path = naming.agent_socket(paths.run, NODE)
    gateway = Registration.open(socket_path, kind="gateway", name="gateway", domain=JOB)
    coordinator = Registration.open(socket_path, kind="coordinator", name="coordinator", domain=JOB)
    gateway.ready()
    coordinator.ready()
    samples = []
    for i in range(CHANGES + 2):
        ref = _update(gateway, i + 1)
        plan = Plan(JOB, i + 1, 1, Timing.EAGER, (Role(names[i % 2], NODE, Level.TOP, 1),))
        start = time.monotonic()
        admin.apply(plan)
        gateway.channel.send(Descriptor(Opcode.OBJECT, *ref, i + 1, 1))
        [mean] = coordinator.channel.recv(PATIENCE)
        samples.append((time.monotonic() - start) * 1e3)
        done = SlotRef(mean.slot, mean.generation)
        entry = coordinator.pool.take(done, coordinator.endpoint)
        if entry.assignment != i + 1:
            raise RuntimeError(f"the mean is of assignment {entry.assignment}, not {i + 1}")
        coordinator.pool.release(done, coordinator.endpoint)
        admin.end_assignment(JOB, i + 1)
    gateway.close()
    coordinator.close()
    return samples[2:]


def _update(gateway: Registration, assignment: int) -> SlotRef:
    pool = gateway.pool
    ref = pool.reserve(SlotKind.UPDATE, gateway.endpoint, assignment, ingest=True)
    start = pool.geometry.meta_bytes - SCHEMA.float_start
    header = SCHEMA.canonical_header()
    pool.meta(ref.slot)[start : start + len(header)] = header
    pool.floats(ref.slot)[: SCHEMA.float_elements] = 1.0
    pool.seal(ref, gateway.endpoint, Seal(assignment, 1.0, start, SCHEMA.document_bytes))
    return ref
