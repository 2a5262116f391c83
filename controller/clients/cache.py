"""A live copy of the objects of one kind, kept by a thread of its own.

Why: decisions look at everything and often; the API server is asked once, and then
tells what changes. While it is away the last copy stays in use: a round goes on.
Objects are kept as what ``parse`` makes of them, which may be far smaller. It must not
decide anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from controller.clients import errors
from controller.clients.api import Cluster, Object
from controller.clients.kinds import Kind
from controller.clients.watching import Watch
from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
JOIN_SECONDS = 20.0
"""A request that is under way may be waited for; see the client's timeouts."""
QUIET_SECONDS = 60
"""Longest watch; its end shows that the server is there although nothing changes."""


class Cache(Generic[T]):
    """All objects of a kind (in ``namespace``, with ``labels`` and ``fields``), parsed.

    ``parse`` may raise ValueError, KeyError or TypeError for an object it cannot read:
    that one is left out and logged. ``on_change`` is called in the cache's thread after
    each change, once after a list.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        parse: Callable[[Object], T],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._kind = kind
        self._parse = parse
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._on_change = on_change
        self._lock = threading.Lock()
        self._values: dict[tuple[str, str], T] = {}
        self._told: list[T] | None = None
        self._synced = threading.Event()
        self._ended = threading.Event()
        self._watch: Watch | None = None
        self._heard = 0.0
        self._thread = threading.Thread(target=self._run, name=f"cache-{kind.plural}", daemon=True)

    def start(self) -> None:
        """Begin to list and watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, also while it is parked in a watch."""
        with self._lock:
            self._ended.set()
            watch = self._watch
        if watch is not None:
            watch.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def wait(self, timeout: float) -> bool:
        """Return whether the first list is in, after ``timeout`` seconds at most."""
        return self._synced.wait(timeout)

    def values(self) -> list[T]:
        """Return everything there is now: the same list, not to be changed, while nothing does."""
        with self._lock:
            if self._told is None:
                self._told = list(self._values.values())
            return self._told

    def get(self, name: str, namespace: str = "") -> T | None:
        """Return one value."""
        with self._lock:
            return self._values.get((namespace, name))

    def silent_seconds(self) -> float:
        """Return how long ago the API server was last heard; infinite before the first time."""
        return time.monotonic() - self._heard if self._heard else float("inf")

    def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            try:
                version = self._list()
                pause = FIRST_PAUSE
                while not self._ended.is_set():
                    version = self._follow(version)
            except errors.Expired:
                continue
            except LiflError as e:
                if not self._ended.is_set():
                    log.warning("%s: %s; trying again in %.1f s", self._kind.plural, e, pause)
                self._ended.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            except Exception:
                log.exception("%s: the cache's thread goes on after an error", self._kind.plural)
                self._ended.wait(LONGEST_PAUSE)

    def _list(self) -> str:
        objects, version = self._cluster.list(
            self._kind, self._namespace, labels=self._labels, fields=self._fields
        )
        fresh = {}
        for item in objects:
            value = self._parsed(item)
            if value is not None:
                fresh[_key(item)] = value
        with self._lock:
            self._values, self._told = fresh, None
        self._note()
        self._synced.set()
        return version

    def _follow(self, version: str) -> str:
        """Take changes until the watch ends; return the version to go on from."""
        watch = self._cluster.watch(
            self._kind,
            version,
            self._namespace,
            labels=self._labels,
            fields=self._fields,
            seconds=QUIET_SECONDS,
        )
        with self._lock:
            self._watch = watch
            if self._ended.is_set():
                watch.stop()
        for type_, item in watch:
            if self._ended.is_set():
                break
            version = str(item["metadata"]["resourceVersion"])
            self._heard = time.monotonic()
            if type_ != "BOOKMARK":
                self._take(type_, item)
        self._heard = time.monotonic()
        return version

    def _take(self, type_: str, item: Object) -> None:
        value = None if type_ == "DELETED" else self._parsed(item)
        with self._lock:
            self._told = None
            if value is None:
                self._values.pop(_key(item), None)
            else:
                self._values[_key(item)] = value
        self._note()

    def _note(self) -> None:
        self._heard = time.monotonic()
        self._on_change()

    def _parsed(self, item: Object) -> T | None:
        try:
            return self._parse(item)
        except (ValueError, KeyError, TypeError) as e:
            log.warning("%s %s is left out: %r", self._kind.kind, _key(item), e)
            return None


def _key(item: Object) -> tuple[str, str]:
    metadata: dict[str, Any] = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
