"""The broker's dispatcher: an entry of a Redis stream out, a request to the function, its reply in.

Why: as a broker's filter in Knative Eventing it delivers each event once a replica takes it,
acknowledges it when the function has, and gives a reply to the ingress as a new event. A payload
goes from Redis's socket into the sidecar's through one buffer, and stays in Redis until there is
room for it. It must not look into payloads.

Given as JSON: ``redis`` (port, password), ``ingress`` (port), ``triggers`` (names), ``log`` (a
file), ``concurrency`` and ``scaler`` (settings by name), ``app``, and ``tell`` (to tell each
delivery over the wire).
Orders: ``zero`` scales to zero, ``counts`` tells what was started since the last one.
"""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

from bench.compare.vanilla import event, network, resp, scaler, web
from bench.compare.vanilla.replica import AGGREGATOR, Replica
from bench.compare.vanilla.service import TICK_SECONDS, Service
from bench.compare.vanilla.stream import Stream
from bench.compare.wire import Wire

CONSUMER = "c"


def prepare(given: bytes) -> dict[str, Any]:
    """Return what it was given."""
    settings: dict[str, Any] = json.loads(given)
    return settings


def serve(wire: Wire, settings: dict[str, Any]) -> None:
    """Deliver until the wire ends; tell when the triggers are set up."""
    dispatcher = Dispatcher(wire, settings)
    try:
        dispatcher.begin()
        wire.tell(ready=True)
        with contextlib.suppress(EOFError):
            while True:
                order = wire.hear(None)
                wire.tell(**getattr(dispatcher, order["do"])())
    finally:
        dispatcher.end()


class Dispatcher:
    """All triggers' deliveries, and the services that they go to."""

    def __init__(self, wire: Wire, settings: dict[str, Any]) -> None:
        self._wire = wire
        self._telling = threading.Lock()
        self._redis, self._ingress = resp.Address(*settings["redis"]), settings["ingress"]
        self._tells = settings.get("tell", False)
        self._idle: list[Stream] = []
        self._ended = threading.Event()
        concurrency, log = settings["concurrency"], Path(settings["log"])
        app = settings.get("app", AGGREGATOR)

        def start(name: str) -> Replica:
            return Replica(name, concurrency, log, app)

        self._services: dict[str, Service] = {}
        for name in settings["triggers"]:
            # all partials of a round belong to one sum: more replicas of the top are no use
            most = 1 if name == event.TOP else 0
            asked = scaler.Settings(**settings["scaler"], most=most)
            self._services[name] = Service(name, start, asked, concurrency, self._fail)

    def begin(self) -> None:
        """Make the triggers' groups of consumers and begin to listen for arrivals."""
        with resp.connect(self._redis) as redis:
            for name in self._services:
                key = event.stream_of(name)
                resp.ask(redis, "XGROUP", "CREATE", key, event.GROUP, "0", "MKSTREAM")
        self._news = resp.connect(self._redis)
        resp.ask(self._news, "SUBSCRIBE", event.ARRIVALS)
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._tick, daemon=True).start()

    def end(self) -> None:
        """Stop, and end all replicas."""
        self._ended.set()
        self._news.close()
        self.zero()

    def zero(self) -> dict[str, Any]:
        """Scale every service to zero and wait for it."""
        threads = [threading.Thread(target=s.scale_to_zero) for s in self._services.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"zero": True}

    def counts(self) -> dict[str, Any]:
        """Return how many replicas were started since the last call, and the seconds of starts."""
        found = [s.take_counts() for s in self._services.values()]
        return {
            "started": sum(c.started for c in found),
            "start_seconds": [t for c in found for t in c.start_seconds],
        }

    def _fail(self, why: str) -> None:
        with self._telling, contextlib.suppress(OSError):
            self._wire.tell(error=why)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed
            while True:
                told = resp.read(self._news)
                assert isinstance(told, list)
                name = told[2]
                assert isinstance(name, bytes)
                service = self._services[name.decode()]
                service.arrived()
                threading.Thread(target=self._deliver_next, args=(service,), daemon=True).start()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            for service in self._services.values():
                service.tick()

    def _deliver_next(self, service: Service) -> None:
        """Deliver the stream's next event, whichever it is."""
        try:
            with service.place():
                self._take(service)
        except Exception as e:  # a thread's own end would be heard by nobody
            if not self._ended.is_set():
                self._fail(f"{service.name}: {type(e).__name__}: {e}")
        finally:
            service.left()

    def _take(self, service: Service) -> None:
        key = event.stream_of(service.name)
        redis = self._idle.pop() if self._idle else resp.connect(self._redis)
        try:
            redis.sendall(
                resp.command(
                    *("XREADGROUP", "GROUP", event.GROUP, CONSUMER, "COUNT", 1),
                    *("STREAMS", key, ">"),
                )
            )
            found = _next(redis)
            if found is not None:
                entry, taken = found
                answer = self._deliver(service, taken, redis)
                redis.sendall(
                    resp.command("XACK", key, event.GROUP, entry) + resp.command("XDEL", key, entry)
                )
                resp.read(redis)
                resp.read(redis)
                if self._tells:
                    with self._telling:
                        self._wire.tell(headers=answer)
        except BaseException:
            redis.close()
            raise
        self._idle.append(redis)

    def _deliver(self, service: Service, taken: event.Event, redis: Stream) -> dict[str, str]:
        """Have a replica take it, and pass its reply on if there is one; return the headers."""
        about = event.onward(taken.about) if service.name == event.TOP else taken.about
        subject = about.get("subject", "")
        replica = service.replica_for(subject)
        finished = False
        try:
            with replica.connect() as function:
                function.sendall(web.request("/", taken.nbytes, event.to_headers(about)))
                redis.pump(taken.nbytes, function)
                redis.exactly(2)
                status, headers = web.read_response(function)
                finished = status == 200
                if finished and int(headers["content-length"]):
                    self._reply(headers, function)
                elif status not in (200, 202):
                    said = function.exactly(int(headers.get("content-length", "0")))
                    raise RuntimeError(f"{replica.name} answers {status}: {said[:400]!r}")
        finally:
            service.done(replica, subject, finished=finished)
        return headers

    def _reply(self, headers: dict[str, str], function: Stream) -> None:
        """Give the function's reply to the ingress, as an event of its own."""
        found = event.from_headers(headers)
        with Stream(network.connect(self._ingress)) as ingress:
            ingress.sendall(web.request("/", found.nbytes, event.to_headers(found.about)))
            function.pump(found.nbytes, ingress)
            status, _ = web.read_response(ingress)
        if status != 202:
            raise RuntimeError(f"the ingress answers a reply with {status}")


def _next(redis: Stream) -> tuple[bytes, event.Event] | None:
    """Return an entry's id and event, up to its payload, from an XREADGROUP's reply."""
    if resp.array(redis) is None:
        return None
    resp.array(redis)  # of the one stream: its key, and entries
    resp.read(redis)
    resp.array(redis)  # the one entry: its id, and fields
    resp.array(redis)
    entry = resp.read(redis)
    fields = resp.array(redis)
    _, about, _ = resp.read(redis), resp.read(redis), resp.read(redis)
    if fields != 4 or not isinstance(entry, bytes) or not isinstance(about, bytes):
        raise resp.RedisError(f"entry {entry!r} is no event")
    return entry, event.Event(event.from_field(about), resp.payload(redis))
