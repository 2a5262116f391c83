"""What an API server may answer instead of doing what it was asked.

Why: callers decide by class; the words are the API server's, cut short.

    ApiError(status, reason)      it refuses: PermanentError
    ├── NotFound                  404
    ├── Exists                    409 on create
    └── Forbidden                 401, 403: the controller's role lacks a right
    Conflict                      409 on a write: TemporaryError, read again
    lifl.errors.Unavailable       it does not answer, or is overloaded (429, 5xx)

It must not do I/O.
"""

from __future__ import annotations

import json

from lifl.errors import LiflError, PermanentError, TemporaryError, Unavailable

WORDS = 500
_LATER = frozenset({408, 429, 500, 502, 503, 504})


class ApiError(PermanentError):
    """The API server refuses."""

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(ApiError):
    """There is no such object, or no such kind."""


class Exists(ApiError):
    """An object of this name is there already."""


class Forbidden(ApiError):
    """The controller may not do that."""


class Conflict(TemporaryError):
    """The object is not what it was when it was read."""


class Expired(TemporaryError):
    """The version to watch from is too old: list again."""


def of(status: int, body: bytes, doing: str) -> LiflError:
    """Return the error for an answer of ``status`` to a request that ``doing`` describes."""
    reason, words = _words(body)
    message = f"{doing}: {words or f'HTTP status {status}'}"
    if status in _LATER:
        return Unavailable(message)
    if status == 410:
        return Expired(message, retry_after=0.0)
    if status == 409 and reason != "AlreadyExists":
        return Conflict(message, retry_after=0.1)
    kinds = {404: NotFound, 409: Exists, 401: Forbidden, 403: Forbidden}
    return kinds.get(status, ApiError)(message, status, reason)


def _words(body: bytes) -> tuple[str, str]:
    try:
        status = json.loads(body)
        return str(status.get("reason", "")), str(status.get("message", ""))[:WORDS]
    except (ValueError, AttributeError):
        return "", body[:WORDS].decode(errors="replace").strip()
