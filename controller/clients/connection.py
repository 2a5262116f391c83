"""The connection to one API server: credentials, requests, and what an answer's status means.

Why: the generated client's models lag behind the servers and fail on answers they do
not know (a binding's, long known, *after* it succeeded), so only configuration, credentials
and connections come from `kubernetes`. It must not know what is asked for,
nor try again: callers do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

from controller.clients import errors
from lifl.errors import ConfigError, Unavailable

Object = dict[str, Any]
Configuration: TypeAlias = client.Configuration

_load_file: Callable[..., None] = config.load_kube_config
_load_pod: Callable[..., None] = config.load_incluster_config

TIMEOUT = (3.0, 15.0)
"""Seconds to connect, and of silence, before a request counts as unanswered."""
CONNECTIONS = 16


class Login(NamedTuple):
    """How a client logs in at a server: files in PEM, and a header; "" for what it has not."""

    server: str
    ca: str
    certificate: str
    key: str
    authorization: str
    verify: bool


class Connection:
    """Requests to an API server; safe for several threads.

    Every one may raise Unavailable (no answer), Forbidden or ApiError
    (:mod:`controller.clients.errors`).
    """

    def __init__(self, configuration: Configuration) -> None:
        configuration.retries = False
        configuration.connection_pool_maxsize = CONNECTIONS
        self.url = str(configuration.host)
        self._client = client.ApiClient(configuration)

    @classmethod
    def connect(cls, kubeconfig: Path | None = None) -> Self:
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

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = "application/json",
        *,
        doing: str,
    ) -> Object:
        """Send a request and return the object that answers it; ``doing`` is for errors."""
        response = self.request(method, path, query, body, content, doing=doing)
        try:
            raw = response.read()
            answer = json.loads(raw)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as e:
            raise Unavailable(f"{doing}: the answer broke off: {e}") from e
        return dict(answer)

    def request(
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
        """Send a request and return its answer, unread; ``timeout`` as TIMEOUT."""
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
