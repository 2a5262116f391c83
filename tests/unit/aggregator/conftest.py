"""A node in one process: the real pool, real machines and performers, routes by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from functions.aggregator.blas import Kernel, best_kernel
from functions.aggregator.machine import Machine
from functions.aggregator.performer import Performer
from functions.aggregator.runtime import drive
from functions.aggregator.stats import Stats
from functions.aggregator.steps import Drained, Flush, Received, RoleChanged
from lifl.errors import NotDelivered
from lifl.store import Pool, PoolGeometry, RoleRow, Seal, SlotKind, SlotRef, SlotState
from lifl.update import Schema, iter_document
from lifl.wire import Descriptor, Opcode

GATEWAY, COORDINATOR = 1, 2


class Wire:
    """A channel whose receiver is a queue of this process."""

    def __init__(self, endpoint: int) -> None:
        self.endpoint = endpoint
        self.target: deque[Descriptor] | None = None
        self.fds = ()

    def send(self, d: Descriptor) -> None:
        if self.target is None:
            raise NotDelivered("no route")
        self.target.append(d)

    def recv(self, timeout: float | None = None) -> list[Descriptor]:
        raise AssertionError("the test delivers")

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


@dataclass
class Agg:
    endpoint: int
    performer: Performer
    wire: Wire
    stats: Stats
    machine: Machine = field(default_factory=Machine)
    inbox: deque[Descriptor] = field(default_factory=deque)
    together: bool = False
    """Whether it sees all that waits before it adds any of it, as one that was busy does."""

    def tell(self, event: object) -> None:
        drive(self.machine, self.performer, event)  # type: ignore[arg-type]

    def work(self) -> None:
        while self.inbox:
            self.tell(Received(self.inbox.popleft(), more=self.together))
        if self.together:
            self.tell(Drained())


class Node:
    """One pool and the aggregators on it; ``sink`` is the coordinator's inbox."""

    def __init__(self, schema: Schema, slots: int = 32, kernel: Kernel | None = None) -> None:
        def pages(nbytes: int) -> int:
            return -(-nbytes // 4096) * 4096

        geometry = PoolGeometry(
            slots, pages(schema.float_bytes), pages(schema.float_start + 8 * 512)
        )
        self.schema = schema
        self.pool = Pool.create("test", geometry)
        self.kernel = kernel or best_kernel()
        self.aggs: list[Agg] = []
        self.sink: deque[Descriptor] = deque()
        self._serial = 0

    def aggregator(self, role: RoleRow | None = None) -> Agg:
        endpoint = 10 + len(self.aggs)
        wire, stats = Wire(endpoint), Stats()
        wire.target = self.sink
        performer = Performer(self.pool, wire, endpoint, self.kernel, stats)
        agg = Agg(endpoint, performer, wire, stats)
        self.aggs.append(agg)
        if role is not None:
            agg.tell(RoleChanged(role))
        return agg

    def upload(
        self,
        arrays: dict[str, np.ndarray],
        samples: float,
        assignment: int = 1,
        layout: int = 0,
    ) -> Descriptor:
        """Seal an update as a gateway does and return its descriptor."""
        ref = self.pool.reserve(SlotKind.UPDATE, GATEWAY, assignment, ingest=True)
        document = b"".join(bytes(p) for p in iter_document(arrays, self.schema))
        meta = self.pool.geometry.meta_bytes
        # Halves may not fill the float area from its start; the document ends where it ends.
        start = meta - self.schema.float_start if layout == 0 else 0
        self.pool.slot_bytes(ref.slot)[start : start + len(document)] = document
        self._serial += 1
        seal = Seal(self._serial, samples, start, len(document), layout)
        self.pool.seal(ref, GATEWAY, seal)
        return Descriptor(Opcode.OBJECT, ref.slot, ref.generation, assignment)

    def settle(self) -> None:
        """Let all aggregators work until no descriptor waits."""
        while any(a.inbox for a in self.aggs):
            for agg in self.aggs:
                agg.work()

    def close_assignment(self, assignment: int = 1) -> None:
        """Flush bottom up until nothing is held, as the agent does when a round closes."""
        self.settle()
        while any(assignment in a.machine.open for a in self.aggs):
            for agg in self.aggs:
                agg.tell(Flush(assignment))
                self.settle()

    def collect(self) -> tuple[np.ndarray, bytes, float, set[int]]:
        """Take what reached the coordinator: mean, integer section, Σ n and cover."""
        total = np.zeros(self.schema.float_elements, np.float64)
        integers, weight, cover = b"", 0.0, set[int]()
        for d in self.sink:
            ref = SlotRef(d.slot, d.generation)
            entry = self.pool.take(ref, COORDINATOR)
            serials = set(self.pool.cover(ref.slot).tolist())
            assert entry.kind is SlotKind.PARTIAL
            assert cover.isdisjoint(serials)
            cover |= serials
            floats = self.pool.floats(ref.slot)[: self.schema.float_elements]
            total += floats * np.float64(entry.weight if entry.layout == 2 else 1.0)
            weight += entry.weight
            meta = self.pool.geometry.meta_bytes
            integers = bytes(self.pool.meta(ref.slot)[meta - self.schema.int_bytes : meta])
            self.pool.release(ref, COORDINATOR)
        self.sink.clear()
        return total / weight, integers, weight, cover

    def states(self) -> set[SlotState]:
        return {self.pool.entry(s).state for s in range(self.pool.geometry.slots)}


@pytest.fixture(scope="session")
def node_class() -> type[Node]:
    return Node


@pytest.fixture(scope="session")
def role() -> type[RoleRow]:
    return RoleRow


@pytest.fixture
def schema() -> Schema:
    return Schema.of(
        {
            "a.weight": np.zeros((3, 5), np.float32),
            "a.steps": np.zeros((), np.int64),
            "b.weight": np.zeros(70_000, np.float32),
            "b.flag": np.zeros(3, np.int32),
        }
    )


@pytest.fixture
def node(schema: Schema) -> Iterator[Node]:
    made = Node(schema)
    yield made
    made.pool.close()


@pytest.fixture
def make_update(schema: Schema):
    """Return a function that makes the arrays of one client's update."""

    def make(seed: int, dtype: str = "float32") -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        arrays: dict[str, np.ndarray] = {}
        for spec in schema.tensors:
            if spec.is_float:
                arrays[spec.name] = rng.standard_normal(spec.shape).astype(dtype)
            else:
                kind = np.int64 if spec.dtype == "I64" else np.int32
                arrays[spec.name] = rng.integers(0, 1000, spec.shape).astype(kind)
        return arrays

    return make


@pytest.fixture(scope="session")
def reference():
    """Return a function that computes the flat mean in float64, in canonical order."""

    def mean(schema: Schema, updates: Sequence[dict[str, np.ndarray]], samples) -> np.ndarray:
        total = np.zeros(schema.float_elements)
        for arrays, n in zip(updates, samples, strict=True):
            flat = [np.asarray(arrays[s.name], np.float64).ravel() for s in schema.floats]
            total += n * np.concatenate(flat)
        return total / np.sum(samples)

    return mean
