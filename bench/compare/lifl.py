"""LIFL as a side of the comparison.

Why: the platform is played as users run it: its own processes, authentication on, checkpoints
on the disk. Which settings make which side is
:mod:`bench.compare.steps`'s to say. It must not know the other sides.
"""

from __future__ import annotations

import contextlib
import os
import platform as machine
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

import lifl
from bench import driver, harness
from bench.clients import Clients, Sent
from bench.compare import mean
from bench.compare.api import Group, Load, Reference, Round
from lifl.platform import doctor
from lifl.update import parse_header

_EVERY = 9
"""Of the 64 places to look at every 9th, so the last too: each is a request, and counts as CPU."""


class Lifl:
    """An ``api.System``: a local platform with one job for each number of clients of its load.

    ``switches`` are LIFL_* settings of the platform; ``dataplane`` is ``ebpf`` or ``socket``, by
    default what the machine can do. ``spare`` are a pool's slots beyond one a client; by default
    the platform decides. ``from_open``: a round counts from its opening to its commit, by
    the coordinator's clock, so that aggregators that are started for it are within.
    """

    def __init__(
        self,
        load: Load,
        group: Group,
        document: bytes,
        *,
        name: str = "lifl",
        title: str = "LIFL",
        nodes: int = 1,
        dataplane: str | None = None,
        switches: Mapping[str, str] | None = None,
        fan_in: int | None = None,
        spare: int | None = None,
        from_open: bool = False,
    ) -> None:
        self.name = name
        self.title = title
        self.dataplane = dataplane or doctor.default_dataplane()[0]
        self.stand_ins = _stand_ins(
            nodes,
            self.dataplane,
            several=len(set(load.sizes)) > 1,
            behind="LIFL_CHECKPOINT_BEHIND" in (switches or {}),
        )
        self.versions = {"lifl": lifl.__version__, "python": machine.python_version()}
        self._load = load
        self._group = group
        self._document = document
        self._nodes = nodes
        self._switches = switches or {}
        self._fan_in = fan_in
        self._spare = spare
        self._from_open = from_open
        self._jobs: dict[int, _Job] = {}
        self._told = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start clients, the platform, and a job for each number of clients of the load."""
        with contextlib.ExitStack() as stack:
            self._clients = stack.enter_context(Clients(self._load.clients, self._document))
            self.platform = stack.enter_context(
                _platform(self._nodes, self.dataplane, self._switches, self._group)
            )
            stack.callback(self._close_jobs)
            self.platform.await_nodes(self._nodes)
            with self._at_home():
                for number in sorted({*self._load.sizes} or {self._load.clients}):
                    self._job(number)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the platform and the clients."""
        self._stack.close()

    def play(self, updates: int | None = None) -> Round:
        """Play one round, with the next one being open at its end; see ``api.System``."""
        with self._at_home():
            return self._play(self._load.clients if updates is None else updates)

    def _play(self, updates: int) -> Round:
        job = self._job(updates)
        done = self._round(job)
        sent = np.frombuffer(self._document, np.float32, offset=job.data_at)
        where = mean.places(sent.size)[::_EVERY]
        mean.check(self.name, sent[where], job.elements(where))
        mean.check_samples(self.name, job.summary["samples"], job.number)
        if not self._from_open:
            job.await_next()
        return done

    def play_true(self, documents: Sequence[bytes], samples: Sequence[int]) -> tuple[Round, bytes]:
        """Play a round in which client *i* sends ``documents[i]``, of ``samples[i]`` samples.

        All have the length of the system's document. Returns the new global model as well, a
        safetensors document.
        """
        with self._at_home():
            job = self._job(len(documents))
            done = self._round(job, documents, samples)
            model = job.model()
            job.await_next()
            return done, model

    def references(self) -> Sequence[Reference]:
        """Return nothing: nobody else has published this path."""
        return ()

    def _at_home(self) -> contextlib.AbstractContextManager[None]:
        """Return within what the commands of ``lifl`` mean this platform: several may run."""
        return harness.environment({"LIFL_HOME": str(self.platform.paths.home)})

    def _job(self, number: int) -> _Job:
        if number not in self._jobs:
            spare = None if self._spare is None else number + self._spare
            job = _Job(self.platform, self._document, number, self._fan_in, spare)
            self._jobs[number] = job
            job.await_next()
        return self._jobs[number]

    def _close_jobs(self) -> None:
        for job in self._jobs.values():
            job.driver.http.close()
        self._jobs.clear()

    def _round(
        self,
        job: _Job,
        documents: Sequence[bytes] | None = None,
        samples: Sequence[int] | None = None,
    ) -> Round:
        """Play it up to the new model being readable."""
        if self._from_open:
            job.await_opening()
        requests = job.driver.placed_requests(
            job.view, samples or [mean.samples(i) for i in range(job.number)]
        )
        start = time.monotonic()
        at = [start + seconds for seconds in self._load.arrivals[: job.number]]
        self._clients.start(requests, at=at, bodies=documents)
        sent = self._clients.wait()
        job.driver.check(sent)
        end = job.driver.wait_for_version(job.round)
        job.committed()
        if job.summary["aggregated"] != job.number:
            raise RuntimeError(
                f"{self.name}: {job.summary['aggregated']} of {job.number} updates were aggregated"
            )
        opened, committed = (_monotonic(job.summary[what]) for what in ("opened", "committed"))
        started = self.platform.started(until=job.summary["committed"])
        created, self._told = started - self._told, started
        return Round(
            wall=committed - opened if self._from_open else end - start,
            last_byte=max(s.last_byte for s in sent) - start,
            updates=job.number,
            created=created,
            nodes=len(driver.nodes_of(job.view)),
            marks=_marks(job.summary, start, sent),
        )


class _Job:
    """One job with rounds of ``number`` updates; ``view`` is of the round that is played."""

    def __init__(
        self,
        platform: harness.Platform,
        document: bytes,
        number: int,
        fan_in: int | None,
        slots: int | None,
    ) -> None:
        self.number = number
        self.data_at = parse_header(document, len(document)).data_start
        self.view: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self._last = 0
        self.driver = driver.Job(
            platform,
            f"compare-{number}",
            document,
            clients=number,
            fan_in=fan_in,
            slots=slots,
            rounds=1_000_000,
        )

    @property
    def round(self) -> int:
        """Return the round's number, which is that of the model version it makes."""
        return int(self.view["round"])

    def await_next(self) -> None:
        """Wait until the next round is open and each client has been told so, as clients ask.

        Every node of it has the model then, as when clients have fetched it there.
        """
        self.driver.ready(after=self._last)
        self.await_opening()
        self.driver.await_model(self.view)

    def await_opening(self) -> None:
        """Wait until the next round is open and every client has a node in it."""
        self.view = self.driver.opened(after=self._last)

    def committed(self) -> None:
        """Wait until the coordinator has committed the round, and kept its model: that is work."""
        self.summary = self.driver.committed(self.round)
        self.driver.await_kept(self.round)
        self._last = self.round

    def elements(self, where: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the new model's float32 elements at ``where``, each by a request of its own."""
        at = [self.data_at + 4 * i for i in where]
        return np.frombuffer(b"".join(self._read(f"bytes={b}-{b + 3}") for b in at), np.float32)

    def model(self) -> bytes:
        """Return the new model, a safetensors document."""
        return self._read(None)

    def _read(self, span: str | None) -> bytes:
        path = f"/v1/jobs/{self.driver.name}/model?version={self.round}"
        headers = {"Range": span} if span else {}
        answer = self.driver.http.request("GET", path, headers=headers)
        if answer.status not in (200, 206):
            raise RuntimeError(f"{path} answers {answer.status}: {answer.data[:400]!r}")
        return bytes(answer.data)


def _stand_ins(nodes: int, dataplane: str, *, several: bool, behind: bool) -> tuple[str, ...]:
    kept = (
        "a checkpoint is within its CPU, but readers have the model before it is on the disk, "
        "which is a setting (LIFL_CHECKPOINT_BEHIND); no other side keeps one (wrongs it)"
        if behind
        else "a checkpoint is on the disk before anybody can read the model (wrongs it)"
    )
    found = [
        "loopback in place of a network; no TLS (flatters it)",
        "clients send out of the memory where an update lies, as its SDK does (flatters it)",
        "its clients' and gateways' connections are not paced within a machine, by a socket "
        "option; other sides' are where the system's congestion control is BBR (flatters it)",
        "tokens, checks of every value and each client's asking for its work are within its "
        "rounds or its CPU (wrongs it)",
        kept,
    ]
    if nodes > 1:
        found.append(f"{nodes} nodes are processes of this one machine")
    if dataplane == "socket":
        found.append("descriptors go over plain sockets, not through the kernel's routes")
    if several:
        found.append("one job for each number of clients, as a job's rounds are of one size")
    return tuple(found)


def _marks(summary: Mapping[str, Any], start: float, sent: Sequence[Sent]) -> dict[str, float]:
    """Return the round's moments in seconds after its start."""
    moments = {
        what: _monotonic(summary[what]) - start
        for what in ("opened", "closed", "summed", "committed")
        if summary.get(what) is not None
    }
    return moments | {"last_answer": max(s.answered for s in sent) - start}


def _monotonic(seconds: float) -> float:
    """Return a moment in seconds since 1970 by this machine's monotonic clock."""
    return seconds - (time.time() - time.monotonic())


@contextlib.contextmanager
def _platform(
    nodes: int, dataplane: str, switches: Mapping[str, str], group: Group
) -> Iterator[harness.Platform]:
    """Run the harness's platform, but with LIFL_HOME set no longer than it takes to start."""
    context = harness.platform(nodes, dataplane)
    with harness.environment({**switches, "LIFL_HOME": ""}), group.adopt():
        platform = context.__enter__()
    try:
        yield platform
    finally:
        with harness.environment({"LIFL_HOME": str(platform.paths.home)}):
            context.__exit__(None, None, None)
        with contextlib.suppress(ChildProcessError):  # the supervisor is nobody's to wait for
            os.waitpid(platform.state["pid"], 0)
