"""Vanilla serverless on one machine: broker, sidecars, and aggregators scaled as Knative does.

Why: it is what somebody gets who runs the same function as a plain service: payload by value in
events through a broker, replicas that start when something comes. Its broker must be as fast as
what is published for the path, or a ratio over it says nothing (:mod:`.reference`).

The tree: updates are spread over nodes by WorstFit, a node has ``ceil(updates / fan_in)`` leaves,
all of whose partial sums go to one top. A request holds one update; the function keeps the sum
until its goal. All processes are in the group: Redis, ingress, dispatcher (with activator and
autoscaler in it), and for each replica gunicorn and its sidecar.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from bench.clients import Clients, Sent, head
from bench.compare import mean
from bench.compare.api import Group, Load, Reference, Round
from bench.compare.vanilla import event, reference, resp, sidecar
from bench.compare.vanilla.broker import Broker
from bench.compare.vanilla.plan import Part, plan
from lifl.update import parse_header

FAN_IN = 2
NODES = 5
ROUND_SECONDS = 600.0
SHARE = 0.5
"""Of the memory that is available, what Redis may hold."""


class Vanilla:
    """An ``api.System``. ``from_zero``: replicas of a round are gone before the next one."""

    name = "vanilla"

    def __init__(
        self,
        load: Load,
        group: Group,
        document: bytes,
        *,
        nodes: int = NODES,
        fan_in: int = FAN_IN,
        from_zero: bool = True,
    ) -> None:
        if not from_zero:
            self.name = "vanilla-warm"
        self.title = f"Vanilla serverless ({'from zero' if from_zero else 'kept warm'})"
        self.stand_ins = _stand_ins(nodes, from_zero=from_zero)
        self.versions: Mapping[str, str] = {}
        self._load, self._group, self._document = load, group, document
        self._nodes, self._fan_in, self._from_zero = nodes, fan_in, from_zero
        self._data_at = parse_header(document, len(document)).data_start
        self._round = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start the broker; there is no aggregator yet."""
        with contextlib.ExitStack() as stack:
            self._clients = stack.enter_context(Clients(self._load.clients, self._document))
            most = int(SHARE * psutil.virtual_memory().available)
            broker = Broker(
                self._group,
                [f"node-{i}" for i in range(self._nodes)] + [event.TOP],
                most,
                concurrency=self._fan_in,
                scaler={"target": self._fan_in},
            )
            self._broker = stack.enter_context(broker)
            self.versions = broker.versions
            self._redis = stack.enter_context(resp.connect(broker.redis))
            self._news = stack.enter_context(resp.connect(broker.redis))
            resp.ask(self._news, "SUBSCRIBE", event.MODELS)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all of it."""
        self._stack.close()

    def play(self, updates: int | None = None) -> Round:
        """Play one round; see ``api.System``."""
        number = self._load.clients if updates is None else updates
        done, samples = self._play([mean.samples(i) for i in range(number)], None)
        sent = np.frombuffer(self._document, np.float32, offset=self._data_at)
        looked_at = mean.places(sent.size)
        mean.check(self.name, sent[looked_at], self._elements(looked_at))
        mean.check_samples(self.name, samples, number)
        return done

    def play_true(self, documents: Sequence[bytes], samples: Sequence[int]) -> tuple[Round, bytes]:
        """Play a round in which client *i* sends ``documents[i]``, of ``samples[i]`` samples.

        All have the length of the system's document. Returns the mean as well, a safetensors
        document.
        """
        done, _ = self._play(samples, documents)
        found = resp.ask(self._redis, "GET", event.MODEL)
        assert isinstance(found, bytes)
        return done, found

    def references(self) -> Sequence[Reference]:
        """Measure the broker's path as the published figures were taken."""
        return reference.measure(self._group)

    def _play(
        self, samples: Sequence[int], documents: Sequence[bytes] | None
    ) -> tuple[Round, float]:
        number = len(samples)
        self._round += 1
        if self._from_zero:
            self._broker.ask("zero")
        self._broker.ask("counts")
        parts = plan(self._round, number, self._nodes, self._fan_in)
        requests = [self._request(*each) for each in zip(parts, samples, strict=True)]
        start = time.monotonic()
        at = [start + seconds for seconds in self._load.arrivals[:number]]
        self._clients.start(requests, at=at, bodies=documents)
        sent = self._clients.wait()
        self._check(sent)
        behind = self._await_model(start)
        end = time.monotonic()
        counts = self._broker.ask("counts")
        marks = {"accepted": max(s.answered for s in sent) - start}
        if counts["start_seconds"]:
            marks["start"] = float(np.median(counts["start_seconds"]))
        done = Round(
            wall=end - start,
            last_byte=max(s.last_byte for s in sent) - start,
            updates=number,
            created=counts["started"],
            nodes=len({p.subject.node for p in parts}),
            marks=marks,
        )
        return done, behind

    def _request(self, part: Part, samples: int) -> tuple[str, int, bytes]:
        alone = part.subject.leaves == 1
        about = {
            "ce-specversion": "1.0",
            "ce-id": str(uuid.uuid4()),
            "ce-source": "/clients",
            "ce-type": event.UPDATE,
            "ce-subject": str(part.subject),
            "ce-liflnode": str(part.subject.node),
            "ce-liflgoal": str(part.goal),
            "ce-liflsamples": str(samples),
        } | ({"ce-liflfinal": "1"} if alone else {})
        host = "127.0.0.1"
        return (
            host,
            self._broker.port,
            head(host, self._broker.port, "/", len(self._document), about),
        )

    def _check(self, sent: Sequence[Sent]) -> None:
        if bad := [s for s in sent if s.status != 202]:
            raise RuntimeError(
                f"{self.name}: {len(bad)} updates were refused, first: {bad[0].answer[-400:]!r}"
            )

    def _await_model(self, start: float) -> float:
        """Wait for this round's model; return the Σ of samples behind it."""
        left = start + ROUND_SECONDS - time.monotonic()
        news, trouble = self._news.sock.fileno(), self._broker.dispatcher.fileno()
        ready = wait([news, trouble], max(0.0, left))
        if trouble in ready:
            self._broker.dispatcher.hear()  # it raises what went wrong
        if not ready:
            raise TimeoutError(f"{self.name}: no model within {ROUND_SECONDS:.0f} s")
        told = resp.read(self._news)
        assert isinstance(told, list)
        assert isinstance(told[2], bytes)
        subject, behind = told[2].decode().split()
        if int(subject.split(".")[0]) != self._round:
            raise RuntimeError(f"{self.name}: model {subject} came in round {self._round}")
        return float(behind)

    def _elements(self, looked_at: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return elements of the model, each by a question of its own."""
        offsets = [self._data_at + 4 * i for i in looked_at]
        self._redis.sendall(
            b"".join(resp.command("GETRANGE", event.MODEL, at, at + 3) for at in offsets)
        )
        found = [resp.read(self._redis) for _ in offsets]
        return np.frombuffer(b"".join(f for f in found if isinstance(f, bytes)), np.float32)


def _stand_ins(nodes: int, *, from_zero: bool) -> tuple[str, ...]:
    proxy = sidecar.about()[2]
    found = [
        *([proxy] if proxy else []),
        "ingress and dispatcher of this project in place of Knative Eventing's: raw sockets, "
        "payload spliced from one to the next, never copied by them (flatters it)",
        "Redis's memory is in huge pages, which it switches off by itself (flatters it)",
        "one dispatcher is activator, load balancer and autoscaler as well, and a trigger's filter "
        "is applied by the ingress, so a payload is kept once, not once a trigger (flatters it)",
        "updates of one sum go to one replica; stock Knative would need a service for each leaf "
        "(flatters it)",
        "the autoscaler is its published formula with its defaults, but a replica's target is as "
        "many requests as LIFL gives a leaf, all of them instead of 70 % (flatters it)",
        "means are kept by the ingress itself, without a hop to a subscriber (flatters it)",
        "the function's memory is kept from request to request by malloc's settings (flatters it)",
        "each aggregator keeps its last sum for a broker that delivers again, which this one does "
        "not (wrongs its memory by a model each)",
        f"{nodes} nodes are numbers: all is on this machine, over loopback, without TLS "
        "(flatters it)",
    ]
    if from_zero:
        found.append(
            "between rounds replicas are ended at once instead of after 90 idle seconds, as "
            "rounds further apart find it"
        )
    return tuple(found)
