"""Refusals, and how they look to a client (problem documents, RFC 9457).

Why: every refusal says what was wrong, where, and by a short stable ``code``
what a program can do about it. It must not do I/O.
"""

from __future__ import annotations

from http import HTTPStatus
from math import ceil
from typing import Any

from werkzeug.exceptions import HTTPException

from lifl.auth import AuthError
from lifl.errors import ConfigError, PermanentError, TemporaryError, UpdateError
from lifl.naming import MEDIA_PROBLEM, PROBLEM_BASE


class Refused(PermanentError):
    """A request that cannot be served: HTTP ``status``, ``code``, ``detail`` and ``where``."""

    def __init__(self, status: int, code: str, detail: str, *, where: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.where = where


def problem(error: Exception, instance: str) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return the document, status and headers for ``error``; ``instance`` is the request's path."""
    headers = {"Content-Type": MEDIA_PROBLEM}
    match error:
        case Refused() | UpdateError():
            status, code, detail, where = error.status, error.code, error.detail, error.where
        case AuthError():
            status, code, detail, where = error.status, error.code, error.detail, "Authorization"
            if status == 401:
                headers["WWW-Authenticate"] = 'Bearer realm="lifl"'
        case ConfigError():
            status, code, detail, where = 422, "unusable", str(error), ""
        case TemporaryError():
            status, code, detail, where = 503, "try-again", str(error), ""
            headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
        case HTTPException():
            status = error.code or 500
            code = error.name.lower().replace(" ", "-")
            detail, where = error.description or error.name, ""
        case _:
            status, code, where = 500, "internal-error", ""
            detail = "the coordinator failed; its log says why"
    document = {
        "type": PROBLEM_BASE + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
    }
    if where:
        document["where"] = where
    return document, status, headers
