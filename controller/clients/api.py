"""One API server: objects in and out as plain dicts.

Why: the generated client's models lag behind the servers and fail on answers they do
not know (a binding's, long known, *after* it succeeded), so this speaks to the paths
themselves; from `kubernetes` come configuration, credentials and connections. It must
not decide anything, nor try again: callers do.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from controller.clients import errors
from controller.clients.events import Recorder
from controller.clients.kinds import EVENT, POD, Kind
from controller.clients.watching import Watch
from lifl.errors import ConfigError, Unavailable

Object = dict[str, Any]

_load_file: Callable[..., None] = config.load_kube_config
_load_pod: Callable[..., None] = config.load_incluster_config

TIMEOUT = (3.0, 15.0)
"""Seconds to connect, and of silence, before a request counts as unanswered."""
PAGE = 500
"""Objects a list asks for at once."""
CONNECTIONS = 16
MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class Login(NamedTuple):
    """How a client logs in at a server: files in PEM, and a header; "" for what it has not."""

    server: str
    ca: str
    certificate: str
    key: str
    authorization: str
    verify: bool


class Cluster:
    """An API server; safe for several threads.

    Every call may raise Unavailable (no answer), Forbidden or ApiError
    (:mod:`controller.clients.errors`).
    """

    def __init__(self, configuration: client.Configuration) -> None:
        configuration.retries = False
        configuration.connection_pool_maxsize = CONNECTIONS
        self.url = str(configuration.host)
        self._client = client.ApiClient(configuration)
        self._recorder = Recorder()
        self._events = threading.Lock()

    @classmethod
    def connect(cls, kubeconfig: Path | None = None) -> Cluster:
        """Return the cluster of ``kubeconfig``, else of KUBECONFIG, else the one this pod is in.

        Raises
        ------
        ConfigError
            if there is none, or the file is unusable.
        """
        configuration = client.Configuration()
        try:
            if kubeconfig is not None:
                _load_file(str(kubeconfig), client_configuration=configuration)
            else:
                try:
                    _load_pod(client_configuration=configuration)
                except config.ConfigException:
                    _load_file(client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError, TypeError) as e:
            raise ConfigError(f"no cluster to speak to: {e}") from e
        return cls(configuration)

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def login(self) -> Login:
        """Return how this client logs in at the moment; tokens are renewed now and then."""
        headers: dict[str, str] = {}
        self._client.update_params_for_auth(headers, [], ["BearerToken"], "", "GET", None)
        known = self._client.configuration
        return Login(
            self.url,
            known.ssl_ca_cert or "",
            known.cert_file or "",
            known.key_file or "",
            headers.get("authorization", ""),
            bool(known.verify_ssl),
        )

    # -- reading ---------------------------------------------------------------------

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Return one object; raises NotFound."""
        return self._json("GET", kind.path(name, namespace), doing=f"{kind.kind} {name}")

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
            page = self._json("GET", kind.path("", namespace), query, doing=f"list {kind.plural}")
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
        return Watch(self._request("GET", path, query, doing=doing, timeout=timeout), doing)

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server knows a kind."""
        try:
            known = self._json("GET", kind.root, doing=f"look for {kind.api}")
        except errors.NotFound:
            return False
        return any(r["name"] == kind.plural for r in known.get("resources", ()))

    def version(self) -> str:
        """Return the API server's version, such as "v1.36.3"."""
        return str(self._json("GET", "/version", doing="ask for the version")["gitVersion"])

    # -- writing ---------------------------------------------------------------------

    def create(self, kind: Kind, body: Mapping[str, Any], namespace: str = "") -> Object:
        """Make an object and return it; raises Exists."""
        doing = f"create {kind.kind} {body['metadata'].get('name', '')}"
        full = {"apiVersion": kind.api, "kind": kind.kind, **body}
        return self._json("POST", kind.path("", namespace), body=full, doing=doing)

    def replace(
        self, kind: Kind, body: Mapping[str, Any], namespace: str = "", *, subresource: str = ""
    ) -> Object:
        """Put an object in the place of its older version; raises Conflict."""
        name = body["metadata"]["name"]
        full = {"apiVersion": kind.api, "kind": kind.kind, **body}
        path = kind.path(name, namespace, subresource)
        return self._json("PUT", path, body=full, doing=f"replace {kind.kind} {name}")

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
        return self._json("PATCH", path, query, body, content, doing=doing)

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
            self._json("DELETE", path, body=body, doing=f"delete {kind.kind} {name}")

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
        self._json("POST", path, body=body, doing=f"bind pod {pod} to {node}")

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

    # -- one request -----------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        *,
        doing: str,
    ) -> Object:
        response = self._request(method, path, query, body, content, doing=doing)
        try:
            raw = response.read()
            answer = json.loads(raw)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            raise Unavailable(f"{doing}: the answer broke off: {e}") from e
        return dict(answer)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        *,
        doing: str,
        timeout: tuple[float, float] = TIMEOUT,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content
        self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self.url + path + ("?" + urlencode(query) if query else "")
        raw = None if body is None else json.dumps(body).encode()
        try:
            response: urllib3.BaseHTTPResponse = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=raw,
                headers=headers,
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                preload_content=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"{doing}: the API server does not answer: {e}") from e
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            try:
                said = response.read()
            except (urllib3.exceptions.HTTPError, OSError):
                said = b""
            raise errors.of(response.status, said, doing)
        return response


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}
