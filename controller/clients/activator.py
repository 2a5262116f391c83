"""Knative's activators, asked each second which revisions have requests at them.

Why: they hold requests for revisions that have no pods, and tell only in their metrics. They
are asked while somebody wants to know, by a thread of their own: one that does not answer
must not hold up scaling. It must not decide anything.

The metrics are there if the ConfigMap ``config-observability`` of Knative says
``metrics-protocol: prometheus``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from controller.clients.api import Object
from controller.cluster.demand import Revision, asked_for
from lifl.client.http import HttpClient, raise_for_status
from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")

LABELS = "app=activator"
NAMESPACE = "knative-serving"
PORT = 9090
PERIOD_SECONDS = 1.0
TIMEOUT_SECONDS = 1.0
MISSING = f"there is no activator: no ready pod with the label {LABELS}"


def place(pod: Object) -> str:
    """Return the base URL of an activator's metrics, "" while its pod is not ready."""
    status = pod.get("status") or {}
    ready = any(
        c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ())
    )
    address = status.get("podIP", "")
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{PORT}" if ready and address else ""


class Activator:
    """All activators; ``places`` returns their base URLs now.

    ``on_change`` is called in this object's thread when other revisions are asked for.
    """

    def __init__(
        self,
        places: Callable[[], Sequence[str]],
        *,
        on_change: Callable[[], None] = lambda: None,
        period: float = PERIOD_SECONDS,
    ) -> None:
        self._places = places
        self._on_change = on_change
        self._period = period
        self._clients: dict[str, HttpClient] = {}
        self._asked: frozenset[Revision] = frozenset()
        self._problem = ""
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="activator", daemon=True)

    @property
    def problem(self) -> str:
        """Return why some activator could not be read at the last try, "" if all could."""
        return self._problem

    def start(self) -> None:
        """Start the thread; it asks while it is told to."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join()
        for client in self._clients.values():
            client.close()

    def watch(self, wanted: bool) -> None:
        """Ask from now on, or no more."""
        if wanted and not self._wanted.is_set():
            self._asked = frozenset()
            self._wanted.set()
        elif not wanted and not self._ended.is_set():
            self._wanted.clear()

    def asked_for(self) -> frozenset[Revision]:
        """Return the revisions that were asked for at the last look."""
        return self._asked if self._wanted.is_set() else frozenset()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait()
            if self._ended.is_set():
                return
            asked = self._look()
            if asked != self._asked:
                self._asked = asked
                self._on_change()
            self._ended.wait(self._period)

    def _look(self) -> frozenset[Revision]:
        places = self._places()
        for gone in self._clients.keys() - set(places):
            self._clients.pop(gone).close()
        texts, problem = [], "" if places else MISSING
        for url in places:
            if url not in self._clients:
                self._clients[url] = HttpClient(url, timeout=TIMEOUT_SECONDS, connections=1)
            try:
                answer = self._clients[url].request("GET", "/metrics")
                raise_for_status(answer)
                texts.append(answer.data.decode(errors="replace"))
            except LiflError as e:
                problem = f"{e}; is metrics-protocol prometheus in config-observability?"
        if problem != self._problem and problem:
            log.warning("requests for functions without pods go unnoticed: %s", problem)
        self._problem = problem
        return asked_for(texts)
