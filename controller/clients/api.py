"""One API server: objects in and out as plain dicts.

Why: callers think in kinds and names, and the same few verbs are right for every kind, those of
Knative and of LIFL included. It must not decide anything, nor try again: callers do.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

from controller.clients import errors
from controller.clients.connection import TIMEOUT, Configuration, Connection, Object
from controller.clients.events import Recorder
from controller.clients.kinds import EVENT, POD, Kind
from controller.clients.watching import Watch
from lifl.errors import Unavailable

__all__ = ["Cluster", "Object"]

PAGE = 500
"""Objects a list asks for at once."""
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Cluster(Connection):
    """The objects of an API server; safe for several threads.

    Every call may raise Unavailable (no answer), Forbidden or ApiError
    (:mod:`controller.clients.errors`).
    """

    def __init__(self, configuration: Configuration) -> None:
        super().__init__(configuration)
        self._recorder = Recorder()
        self._events = threading.Lock()

    # -- reading ---------------------------------------------------------------------

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Return one object; raises NotFound."""
        return self.ask("GET", kind.path(name, namespace), doing=f"{kind.kind} {name}")

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Return one object, None if there is none."""
        try:
            return self.get(kind, name, namespace)
        except errors.NotFound:
            return None

    def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """Return all objects (several pages if need be) and the version to watch from."""
        found: list[Object] = []
        query = {"limit": str(PAGE)} | _selectors(labels, fields)
        while True:
            page = self.ask("GET", kind.path("", namespace), query, doing=f"list {kind.plural}")
            found += page.get("items") or []
            more = page["metadata"].get("continue")
            if not more:
                return found, str(page["metadata"].get("resourceVersion", ""))
            query["continue"] = more

    def watch(
        self,
        kind: Kind,
        version: str,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        seconds: int = 240,
    ) -> Watch:
        """Return the changes after ``version``, of ``seconds`` at most."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        } | _selectors(labels, fields)
        doing = f"watch {kind.plural}"
        path = kind.path("", namespace)
        timeout = (TIMEOUT[0], seconds + 15.0)
        return Watch(self.request("GET", path, query, doing=doing, timeout=timeout), doing)

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server knows a kind."""
        try:
            known = self.ask("GET", kind.root, doing=f"look for {kind.api}")
        except errors.NotFound:
            return False
        return any(r["name"] == kind.plural for r in known.get("resources", ()))

    def version(self) -> str:
        """Return the API server's version, such as "v1.36.3"."""
        return str(self.ask("GET", "/version", doing="ask for the version")["gitVersion"])

    # -- writing ---------------------------------------------------------------------

    def create(self, kind: Kind, body: Mapping[str, Any], namespace: str = "") -> Object:
        """Make an object and return it; raises Exists."""
        doing = f"create {kind.kind} {body['metadata'].get('name', '')}"
        full = {"apiVersion": kind.api, "kind": kind.kind, **body}
        return self.ask("POST", kind.path("", namespace), body=full, doing=doing)

    def replace(
        self, kind: Kind, body: Mapping[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Put an object in the place of its older version; raises Conflict."""
        name = body["metadata"]["name"]
        full = {"apiVersion": kind.api, "kind": kind.kind, **body}
        path = kind.path(name, namespace, subresource)
        return self.ask("PUT", path, body=full, doing=f"replace {kind.kind} {name}")

    def patch(
        self,
        kind: Kind,
        name: str,
        body: Mapping[str, Any] | Sequence[Any],
        namespace: str = "",
        *,
        subresource: str = "",
        server_side: str = "",
    ) -> Object:
        """Change part of an object and return it.

        A mapping is merged, a sequence is a JSON patch (RFC 6902). ``server_side`` names the
        field manager of a server-side apply, which also creates.
        """
        content, query = (MERGE if isinstance(body, Mapping) else JSON_PATCH), {}
        if server_side:
            content, query = APPLY, {"fieldManager": server_side, "force": "true"}
            body = {
                "apiVersion": kind.api,
                "kind": kind.kind,
                **dict(cast(Mapping[str, Any], body)),
            }
        path = kind.path(name, namespace, subresource)
        doing = f"patch {kind.kind} {name} {subresource}".rstrip()
        return self.ask("PATCH", path, query, body, content, doing=doing)

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        background: bool = True,
        grace: int | None = None,
    ) -> None:
        """Delete an object, of ``uid`` only if given; it may be gone already.

        ``grace`` are the seconds a pod is given to end, its own setting if None.

        Raises
        ------
        Conflict
            if another object of this name is there by now.
        """
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if background:
            body["propagationPolicy"] = "Background"
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        if uid:
            body["preconditions"] = {"uid": uid}
        with contextlib.suppress(errors.NotFound):
            path = kind.path(name, namespace)
            self.ask("DELETE", path, body=body, doing=f"delete {kind.kind} {name}")

    def bind(
        self,
        namespace: str,
        pod: str,
        node: str,
        *,
        uid: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Give a pod its node, and these annotations with it, in one step.

        Old servers do not look at ``uid`` (seen with 1.20).

        Raises
        ------
        Conflict
            if it is bound already or another pod by now.
        """
        metadata: Object = {"name": pod, "namespace": namespace, "annotations": annotations or {}}
        if uid:
            metadata["uid"] = uid
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        path = POD.path(pod, namespace, "binding")
        self.ask("POST", path, body=body, doing=f"bind pod {pod} to {node}")

    def event(
        self,
        about: Mapping[str, Any],
        reason: str,
        message: str,
        *,
        warning: bool = False,
        component: str = "lifl-controller",
    ) -> None:
        """Leave an event at an object; one that is repeated is counted. Best effort.

        ``about`` has apiVersion, kind, name, namespace and uid.
        """
        with self._events:
            method, body = self._recorder.note(
                about, reason, message, warning=warning, component=component
            )
            namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
            with contextlib.suppress(errors.ApiError, errors.Conflict, Unavailable):
                if method == "PATCH":
                    try:
                        change = {k: body[k] for k in ("count", "lastTimestamp")}
                        self.patch(EVENT, name, change, namespace)
                    except errors.NotFound:  # events are forgotten after an hour
                        self.create(EVENT, body, namespace)
                else:
                    self.create(EVENT, body, namespace)


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
