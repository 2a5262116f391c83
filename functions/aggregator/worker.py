"""The gunicorn worker class of the aggregator: threads, an unhurried end, requests in line counted.

Why: gunicorn's threaded worker is right in most things; this class adds

* **the drain**: after SIGTERM it goes on serving for LIFL_DRAIN_SECONDS while readiness
  says no, since a platform goes on sending for as long as its endpoints have not been
  told everywhere. Then it takes what is in the listen queue and closes that *at once*:
  a connection left there would be reset. Requests that begin meanwhile are their
  connections' last, so that few are left idle when the end comes. The master forgets its
  listeners at SIGTERM but waits for graceful_timeout, which therefore includes the drain.
* **the line**: requests for which no thread is free are noted in the traffic's figures;
  else four threads would never look like more than four requests.

It must not import the app: the worker process
does, when it is time.
"""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

from functions.aggregator.draining import Drain
from functions.aggregator.traffic import Traffic

log = logging.getLogger("lifl.aggregator")


class AggregatorWorker(ThreadWorker):  # type: ignore[misc]
    """One process of an aggregator."""

    _drain: Drain | None = None
    _traffic: Traffic | None = None
    _drained_at = float("inf")

    def load_wsgi(self) -> None:
        """Import the app; from then on there is something to drain and to count."""
        super().load_wsgi()
        self._drain = self.wsgi.extensions["lifl-drain"]
        self._traffic = self.wsgi.extensions["lifl-traffic"]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain, or the end if there is none; a signal's handler."""
        drain = self._drain
        if drain is None or drain.seconds <= 0:
            super().handle_exit(sig, frame)
        elif not drain.begun:
            drain.begun = True
            self._drained_at = time.monotonic() + drain.seconds
            self.method_queue.defer(lambda: None)  # so that the loop looks at the clock

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve what is there, but not beyond the drain's end."""
        if not self.alive:
            super().wait_for_and_dispatch_events(timeout)
            return
        left = self._drained_at - time.monotonic()
        super().wait_for_and_dispatch_events(max(0.0, min(timeout, left)))
        if self.alive and time.monotonic() >= self._drained_at:
            log.info("drained for %.1f s; ending", self._drain.seconds if self._drain else 0.0)
            super().handle_exit(signal.SIGTERM, None)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Stop accepting; at the end take who is in line already, and close the door."""
        if not enabled and not self.alive:
            for listener in self.sockets if self._accepting else ():
                before = -1
                while before < self.nr_conns:
                    before = self.nr_conns
                    self.accept(listener)
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()

    def enqueue_req(self, conn: TConn) -> None:
        """Put a connection with a request in line."""
        if self._traffic is not None:
            self._traffic.wait()
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Serve a request, while draining as its connection's last."""
        if self._drain is not None and self._drain.begun:
            req.force_close()
        return super().handle_request(req, conn)

    def handle(self, conn: TConn) -> Any:
        """Serve a connection's request; in a thread of the pool."""
        if self._traffic is not None:
            self._traffic.taken()
        return super().handle(conn)
