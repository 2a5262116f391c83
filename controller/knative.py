"""Knative's objects that the autoscaler works with, if Knative is there, or once it is.

Why: LIFL also runs on clusters without Knative, and Knative may be installed later. What this
process wrote itself it believes until the copy of the cluster shows it or something newer, or
it would write it again. It must not decide (:mod:`controller.cluster.autoscale` does).
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from controller.clients.api import Cluster, Object
from controller.clients.cache import Cache
from controller.clients.kinds import POD_AUTOSCALER, SERVERLESS_SERVICE, Kind
from controller.cluster.autoscale import (
    CreateSks,
    PatchSksMode,
    Pods,
    Scale,
    WriteStatus,
    decide,
)
from controller.cluster.targets import version_of
from lifl.errors import LiflError

log = logging.getLogger("lifl.controller")

LOOK_SECONDS = 60.0
BELIEVE_SECONDS = 10.0
"""How long an object that was made is believed to be there though it is not seen."""

Key = tuple[str, str]
"""Namespace and name."""


class KnativeObjects:
    """Live copies of PodAutoscalers and ServerlessServices; for one thread."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._on_change = on_change
        self._clock = clock
        self._next_look = clock()
        self._caches: dict[Kind, Cache[Object]] = {}
        self._own: dict[tuple[Kind, Key], tuple[Object, float]] = {}

    def look(self) -> None:
        """Begin to follow the objects if Knative serves them by now."""
        if self._caches or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + LOOK_SECONDS
        kinds = (POD_AUTOSCALER, SERVERLESS_SERVICE)
        try:
            if not all(self._cluster.serves(kind) for kind in kinds):
                return
        except LiflError as e:
            log.warning("is Knative there? %s", e)
            self._next_look = self._clock() + LOOK_SECONDS / 10
            return
        log.info("Knative is there")
        self._caches = {
            kind: Cache(self._cluster, kind, _whole, on_change=self._on_change) for kind in kinds
        }
        for cache in self._caches.values():
            cache.start()

    def stop(self) -> None:
        """End the caches' threads."""
        caches, self._caches = self._caches, {}
        for cache in caches.values():
            cache.stop()

    def autoscalers(self) -> list[Object]:
        """Return the PodAutoscalers, none before both kinds are known."""
        if not self._caches or not all(c.wait(0) for c in self._caches.values()):
            return []
        return list(self._newest(POD_AUTOSCALER).values())

    def bring(
        self,
        autoscaler: Mapping[str, Any],
        pods: Pods,
        scale: Callable[[int], None],
        *,
        through_activator: bool,
    ) -> None:
        """Do for one PodAutoscaler what is to be done; ``scale`` sets its Deployment's replicas.

        Raises LiflError for what the API server refuses; the rest is done at the next look.
        """
        namespace, name = _key(autoscaler)
        instructions = decide(
            autoscaler,
            self._newest(SERVERLESS_SERVICE).get((namespace, name)),
            pods,
            now=_stamp(),
            through_activator=through_activator,
        )
        for instruction in instructions:
            match instruction:
                case CreateSks(body):
                    made = self._cluster.create(SERVERLESS_SERVICE, body, namespace)
                    self._wrote(SERVERLESS_SERVICE, made)
                case PatchSksMode(mode):
                    body = {"spec": {"mode": mode}}
                    made = self._cluster.patch(SERVERLESS_SERVICE, name, body, namespace)
                    self._wrote(SERVERLESS_SERVICE, made)
                case Scale(replicas):
                    scale(replicas)
                case WriteStatus(status):
                    made = self._cluster.patch(
                        POD_AUTOSCALER, name, {"status": status}, namespace, subresource="status"
                    )
                    self._wrote(POD_AUTOSCALER, made)

    def _wrote(self, kind: Kind, answer: Object) -> None:
        """Note an object as the API server answered it."""
        self._own[kind, _key(answer)] = (answer, self._clock() + BELIEVE_SECONDS)

    def _newest(self, kind: Kind) -> dict[Key, Object]:
        found = {_key(o): o for o in self._caches[kind].values()}
        now = self._clock()
        for (of, key), (own, until) in list(self._own.items()):
            if of is not kind:
                continue
            seen = found.get(key)
            if now >= until or (seen is not None and version_of(seen) >= version_of(own)):
                del self._own[of, key]
            elif seen is None:
                if of is SERVERLESS_SERVICE:  # just made; who asks for it has its PodAutoscaler
                    found[key] = own
            elif seen["metadata"]["uid"] == own["metadata"]["uid"]:
                found[key] = own
        return found


def _key(raw: Mapping[str, Any]) -> Key:
    return raw["metadata"].get("namespace", ""), raw["metadata"]["name"]


def _whole(raw: Object) -> Object:
    raw["metadata"].pop("managedFields", None)
    return raw


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
