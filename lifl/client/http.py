"""A small HTTP client: JSON both ways, kept-alive connections, errors by meaning.

Why: gateway, controller, CLI and client SDK all speak the same dialect (JSON,
problem documents, ``Retry-After``); here an answer becomes a value or one of two
kinds of error: worth trying again, or not. It is the one importer of urllib3.
It must not retry by itself: what may be sent twice is the caller's knowledge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import urllib3

from lifl import congestion
from lifl.client.splice import WORTH, Splicer
from lifl.errors import ConfigError, PermanentError, Unavailable

Token = str | Callable[[], str] | None
Body = bytes | memoryview | Iterable[bytes | memoryview] | None
Response = urllib3.BaseHTTPResponse


class Headers(Protocol):
    """An answer's headers, whatever library read them; names in any case."""

    def get(self, name: str, default: Any, /) -> Any:
        """Return a header, or ``default``."""


class Told(Protocol):
    """What an answer has that its meaning depends on."""

    @property
    def status(self) -> int:
        """Return the HTTP status."""

    @property
    def headers(self) -> Headers:
        """Return the headers."""

    @property
    def data(self) -> bytes:
        """Return the body."""


BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
MAX_RETRY_AFTER = 300.0
READ_PIECE = 1 << 20


class HttpError(PermanentError):
    """The server refused: its status, and ``code``, ``detail``, ``where`` of its problem document.

    ``document`` is the whole problem document, empty if there was none.
    """

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.code = str(document.get("code", ""))
        self.detail = str(document.get("detail") or document.get("title") or f"HTTP {status}")
        self.where = str(document.get("where", ""))
        self.document = dict(document)
        super().__init__(f"{self.detail} (HTTP {status}{', ' + self.code if self.code else ''})")


class HttpClient:
    """One server's base URL with kept-alive connections; safe for several threads.

    ``token`` is a bearer token, or a function that returns the present one.
    ``timeout`` is in seconds and holds for connecting and for each silence.
    ``ingress`` ("HOST:PORT") is connected to in the URL's place, which is still what is
    asked for: for names of a cluster that this machine cannot resolve. ``by_reference``
    sends large views from where they lie (:mod:`lifl.client.splice`): such memory may not change
    before the answer is here.
    """

    def __init__(
        self,
        base_url: str,
        token: Token = None,
        *,
        timeout: float = 10.0,
        connections: int = 8,
        ingress: str = "",
        by_reference: bool = False,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._prefix = urllib3.util.parse_url(self.base_url).path or ""
        self._host = {"Host": str(urllib3.util.parse_url(self.base_url).netloc)} if ingress else {}
        self._pool = _pool(self.base_url, ingress, connections)
        if by_reference and self._pool.scheme == "http":
            self._pool.ConnectionCls = _Connection

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Body = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> Response:
        """Send a request and return the answer, whatever its status.

        ``path`` starts with ``/``. A body of several buffers is sent one after
        the other without joining them; give ``Content-Length`` then, or it goes
        out chunked. With ``stream`` the answer's body is left to the caller, who
        must read it to the end or close it.

        Raises
        ------
        Unavailable
            if there was no answer.
        """
        sent = {**self._host, **(headers or {})}
        token = self._token() if callable(self._token) else self._token
        if token and "Authorization" not in sent:
            sent["Authorization"] = f"Bearer {token}"
        try:
            return self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,  # type: ignore[arg-type]  # urllib3's type leaves out memoryviews
                headers=sent,
                timeout=self._timeout if timeout is None else timeout,
                redirect=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"{method} {self.base_url}{path} got no answer: {e}") from e

    def json(
        self,
        method: str,
        path: str,
        payload: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Send ``payload`` as JSON and return the answer's JSON, ``None`` if it is empty.

        Raises
        ------
        Unavailable
            if there was no answer, or a status that asks to try again.
        HttpError
            for any other status from 300 on.
        """
        sent = {"Accept": "application/json", **(headers or {})}
        body = None
        if payload is not None:
            body = json.dumps(payload, separators=(",", ":")).encode()
            sent["Content-Type"] = "application/json"
        response = self.request(method, path, body=body, headers=sent, timeout=timeout)
        raise_for_status(response)
        if not response.data:
            return None
        try:
            return json.loads(response.data)
        except ValueError as e:
            raise Unavailable(f"{method} {self.base_url}{path} answered no JSON: {e}") from e

    def read_into(self, method: str, path: str, target: memoryview) -> None:
        """Read an answer's body of exactly ``len(target)`` bytes into ``target``.

        Raises
        ------
        Unavailable, HttpError
            as :meth:`json` does; Unavailable also if the length differs.
        """
        response = self.request(method, path, stream=True)
        try:
            if response.status >= 300:
                response.read(cache_content=True)
                raise_for_status(response)
            at = 0
            while count := response.readinto(target[at : at + READ_PIECE]):
                at += count
            if at != len(target) or response.read(1):
                raise Unavailable(f"{method} {self.base_url}{path}: a body of another length")
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise Unavailable(f"{method} {self.base_url}{path} broke off: {e}") from e
        finally:
            response.close()

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()


class _Connection(urllib3.connection.HTTPConnection):
    """One that sends large views by reference."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._splicer: Splicer | None = None

    def send(self, data: Any) -> None:
        """Send bytes as they are, and views without a copy where the system can."""
        if self.sock is None or not isinstance(data, memoryview) or len(data) < WORTH:
            super().send(data)
            return
        if self._splicer is None:
            self._splicer = Splicer(self.sock)
        self._splicer.send(data)

    def close(self) -> None:
        """Close the connection."""
        if self._splicer is not None:
            self._splicer.close()
            self._splicer = None
        super().close()


def _pool(base_url: str, ingress: str, connections: int) -> urllib3.HTTPConnectionPool:
    url = urllib3.util.parse_url(base_url)
    to = urllib3.util.parse_url(f"//{ingress}") if ingress else url
    usual = urllib3.connection.HTTPConnection.default_socket_options
    options = [*usual, *congestion.options(to.host or "")]
    settings: dict[str, Any] = {"maxsize": connections, "retries": False, "socket_options": options}
    if not ingress:
        return urllib3.connection_from_url(base_url, **settings)
    if not url.host or not to.host:
        raise ConfigError(f"{ingress!r} is not the HOST:PORT of an ingress")
    if url.scheme == "https":
        settings |= {"server_hostname": url.host, "assert_hostname": url.host}
        return urllib3.HTTPSConnectionPool(to.host, to.port or 443, **settings)
    return urllib3.HTTPConnectionPool(to.host, to.port or 80, **settings)


class NotRouted(Unavailable):
    """404, but not LIFL's: what stands before it has no route to it, or not yet."""


def raise_for_status(response: Told) -> None:
    """Raise Unavailable or HttpError for a status from 300 on.

    A 404 without a problem document's ``code`` is an ingress's that has no route for the name
    (:class:`NotRouted`, nobody was asked): on a cluster such come and go with its pods.
    """
    if response.status < 300:
        return
    error = HttpError(response.status, _problem(response.data))
    if response.status == 404 and not error.code:
        raise NotRouted(
            "HTTP 404 by something that is not LIFL: the URL is wrong, or an ingress has no route "
            "for it yet"
        )
    if response.status in BUSY:
        raise Unavailable(str(error), retry_after=retry_after(response)) from error
    raise error


def read_into(response: Response, target: memoryview) -> int:
    """Read the next bytes of a streamed answer into ``target``; return how many, 0 at its end.

    Raises
    ------
    Unavailable
        if the connection broke or fell silent.
    """
    try:
        return response.readinto(target)
    except (urllib3.exceptions.HTTPError, OSError) as e:
        raise Unavailable(f"an answer broke off: {e}") from e


def retry_after(response: Told, default: float = 1.0) -> float:
    """Return how many seconds the server asks to wait, at most five minutes."""
    try:
        return min(max(float(response.headers.get("Retry-After", default)), 0.0), MAX_RETRY_AFTER)
    except ValueError:  # the form with a date
        return default


def _problem(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
