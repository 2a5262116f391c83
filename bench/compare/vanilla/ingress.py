"""The broker's ingress: HTTP in, an entry of a Redis stream out, then 202.

Why: as a broker's ingress in Knative Eventing it answers when the event is kept, and not before.
A payload goes from the sender's socket into Redis's through one buffer. A mean goes where models
are kept, which stands in for a subscriber that keeps them. It must not look into payloads.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from typing import Any

from bench.compare.vanilla import event, resp, web
from bench.compare.vanilla.stream import Ended, Stream
from bench.compare.wire import Wire

BACKLOG = 512
LINGER_SECONDS = 2.0


def prepare(given: bytes) -> dict[str, Any]:
    """Return what it was given: ``redis``, port and password."""
    settings: dict[str, Any] = json.loads(given)
    return settings


def serve(wire: Wire, settings: dict[str, Any]) -> None:
    """Serve until the wire ends; tell the port first."""
    ingress = Ingress(resp.Address(*settings["redis"]))
    threading.Thread(target=ingress.run, daemon=True).start()
    wire.tell(port=ingress.port)
    wire.hear(None)  # nothing is ever said; it ends


class Ingress:
    """A listening ingress on ``port``; ``run`` serves until ``close``."""

    def __init__(self, redis: resp.Address) -> None:
        self._redis = redis
        self._idle: queue.SimpleQueue[Stream] = queue.SimpleQueue()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Accept, a thread a connection."""
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(Stream(sock),), daemon=True).start()

    def close(self) -> None:
        """Accept no more, and let idle connections go."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with contextlib.suppress(queue.Empty):
            while True:
                self._idle.get_nowait().close()

    def _serve(self, sender: Stream) -> None:
        with sender, contextlib.suppress(OSError):
            try:
                _, headers = web.read_head(sender)
                found = event.from_headers(headers)
                trigger = event.trigger_of(found.about)
                if headers.get("expect", "").lower() == "100-continue":
                    sender.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._keep(sender, found, trigger)
            except Ended:
                return
            except ValueError as e:
                _refuse(sender, 400, str(e))
            except (resp.RedisError, OSError) as e:
                _refuse(sender, 507, f"the event was not kept: {e}")
            else:
                sender.sendall(web.response(202))

    def _keep(self, sender: Stream, found: event.Event, trigger: str | None) -> None:
        """Move the payload into Redis and wait until it is kept."""
        redis = self._connection()
        try:
            redis.sendall(_before(found, trigger) + resp.bulk(found.nbytes))
            sender.pump(found.nbytes, redis)
            redis.sendall(b"\r\n" + _news(found, trigger))
            for _ in range(2 if trigger else 3):
                resp.read(redis)
        except BaseException:
            redis.close()  # in the middle of a command, or with replies to come
            raise
        self._idle.put(redis)

    def _connection(self) -> Stream:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return resp.connect(self._redis)


def _refuse(sender: Stream, status: int, why: str) -> None:
    """Answer, and let go of what is still coming: who is reset while sending hears no answer."""
    sender.sendall(web.response(status, body=f"{why}\n".encode()))
    sender.sock.shutdown(socket.SHUT_WR)
    sender.sock.settimeout(LINGER_SECONDS)
    while sender.sock.recv(1 << 16):
        pass


def _before(found: event.Event, trigger: str | None) -> bytes:
    """Return the command up to its payload."""
    if trigger is None:
        about = resp.command("SET", f"{event.MODEL}.about", event.to_field(found.about))
        return about + resp.opened("SET", event.MODEL)
    about = event.to_field(found.about)
    return resp.opened("XADD", event.stream_of(trigger), "*", "about", about, "data")


def _news(found: event.Event, trigger: str | None) -> bytes:
    """Return the command that tells who waits."""
    if trigger is not None:
        return resp.command("PUBLISH", event.ARRIVALS, trigger)
    told = f"{found.about.get('subject', '')} {found.about.get('liflsamples', '0')}"
    return resp.command("PUBLISH", event.MODELS, told)
