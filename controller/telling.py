"""Telling users about their pods: events, and the condition that says why one waits.

Why: best effort and slow (a request each), so a thread of its own does it: a binding never
waits for the words about another. It must not decide what is said.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import queue
import threading
from collections.abc import Callable

from controller.clients.api import Cluster, Object
from controller.clients.kinds import POD
from controller.cluster.objects import PodView
from lifl.errors import LiflError
from lifl.naming import SCHEDULER

log = logging.getLogger("lifl.controller")

MOST_WAITING = 2000
"""Things to say at a time; what is more is not said."""

Saying = Callable[[], None]


class Teller:
    """Says things about pods, one after the other; its thread starts with the first."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._queue: queue.Queue[Saying | None] = queue.Queue(MOST_WAITING)
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def bound(self, pod: PodView, node: str) -> None:
        """Say that a pod got its node."""
        words = f"Successfully assigned {pod.namespace}/{pod.name} to {node}"
        self._say(lambda: self._cluster.event(_about(pod), "Scheduled", words, component=SCHEDULER))

    def refused(self, pod: PodView, message: str, since: float) -> None:
        """Say why a pod has no node, which it waits for since ``since`` (seconds since 1970).

        The condition is what Knative, and autoscalers of nodes, look at.
        """
        self._say(lambda: self._refused(pod, message, since))

    def stop(self) -> None:
        """End the thread after what it is saying; the rest stays unsaid."""
        self._ended.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(None)
            thread.join()

    def _say(self, saying: Saying) -> None:
        with self._lock:
            if self._ended.is_set():
                return
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="scheduler-events", daemon=True
                )
                self._thread.start()
        try:
            self._queue.put_nowait(saying)
        except queue.Full:
            log.warning("too much to say about pods: some events are left out")

    def _run(self) -> None:
        while (saying := self._queue.get()) is not None and not self._ended.is_set():
            try:
                saying()
            except LiflError as e:
                log.info("an event or condition could not be written: %s", e)
            except Exception:
                log.exception("an event or condition could not be written")

    def _refused(self, pod: PodView, message: str, since: float) -> None:
        self._cluster.event(
            _about(pod), "FailedScheduling", message, warning=True, component=SCHEDULER
        )
        now = self._cluster.get(POD, pod.name, pod.namespace)
        if now["metadata"]["uid"] != pod.uid or now["spec"].get("nodeName"):
            return
        stamp = datetime.datetime.fromtimestamp(since, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": stamp,
        }
        metadata = {
            "name": pod.name,
            "namespace": pod.namespace,
            # Refused if it is bound meanwhile: it must not be told then that it is not.
            "resourceVersion": now["metadata"]["resourceVersion"],
        }
        body: Object = {"metadata": metadata, "status": {"conditions": [condition]}}
        self._cluster.patch(
            POD, pod.name, body, pod.namespace, subresource="status", server_side=SCHEDULER
        )


def _about(pod: PodView) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod.name,
        "namespace": pod.namespace,
        "uid": pod.uid,
    }
