"""Errors as problem documents (RFC 9457).

Why: a client, and the person behind it, should learn from every refusal what
was wrong, where, and whether to try again. One mapping from exceptions to
documents serves the flask app and the worker, which refuses requests that
never reach the app. It must not log or count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import Any

from gunicorn.http.errors import (
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from werkzeug.exceptions import HTTPException

from functions.gateway.worker import HeaderTimeout
from lifl.auth import AuthError
from lifl.client.http import HttpError
from lifl.errors import ConfigError, LiflError, TemporaryError, UpdateError
from lifl.naming import MEDIA_PROBLEM, PROBLEM_BASE


class Refused(LiflError):
    """A request this gateway will not serve: status, code, detail, and where it went wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        where: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.where = where
        self.retry_after = retry_after


class ClientGone(LiflError):
    """The client closed its connection in the middle of a body."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document and the headers that go with it."""

    status: int
    code: str
    detail: str
    where: str = ""
    retry_after: float | None = None

    @property
    def title(self) -> str:
        """Return the status's standard phrase."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Error"

    def document(self, instance: str) -> bytes:
        """Return the JSON; ``instance`` is the request's path."""
        members: dict[str, Any] = {
            "type": PROBLEM_BASE + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
        }
        if self.where:
            members["where"] = self.where
        return json.dumps(members).encode()

    def headers(self) -> list[tuple[str, str]]:
        """Return the header fields besides Content-Length."""
        fields = [("Content-Type", MEDIA_PROBLEM)]
        if self.retry_after is not None:
            fields.append(("Retry-After", str(max(1, ceil(self.retry_after)))))
        if self.status == 401:
            fields.append(("WWW-Authenticate", 'Bearer realm="lifl"'))
        return fields


def of(error: BaseException) -> Problem:  # noqa: PLR0911  one return an error
    """Return what to tell a client about ``error``; anything unforeseen is a bare 500."""
    match error:
        case Refused():
            return Problem(error.status, error.code, error.detail, error.where, error.retry_after)
        case UpdateError():
            return Problem(error.status, error.code, error.detail, error.where)
        case AuthError():
            return Problem(error.status, error.code, error.detail, "Authorization")
        case HttpError():
            code = error.code or "refused"
            return Problem(error.status, code, error.detail, error.where)
        case ConfigError():
            return Problem(422, "unusable", str(error))
        case TemporaryError():
            return Problem(503, "try-again", str(error), "", error.retry_after)
        case ParseException():
            return _malformed(error)
        case HeaderTimeout():
            return Problem(408, "headers-too-slow", "the headers did not come in time")
        case ClientGone():
            return Problem(400, "truncated", str(error))
        case HTTPException():
            status = error.code or 500
            return Problem(status, _slug(error.name), error.description or error.name)
        case _:
            return Problem(500, "internal-error", "the gateway failed; its log says why")


def _malformed(error: ParseException) -> Problem:
    """Return the problem of a request that gunicorn cannot parse."""
    match error:
        case LimitRequestLine():
            return Problem(414, "request-line-too-long", str(error))
        case LimitRequestHeaders():
            return Problem(431, "headers-too-large", str(error))
        case ExpectationFailed():
            return Problem(417, "unknown-expectation", "the one known expectation is 100-continue")
        case UnsupportedTransferCoding():
            return Problem(501, "unknown-transfer-coding", str(error))
        case _:
            return Problem(400, "malformed-request", str(error))


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")
