"""Who may call what.

Why: clients show tokens of their job's key, other gateways tokens of the
platform's secret. It must not know routes.
"""

from __future__ import annotations

from flask import Request

from functions.gateway.views import JobView
from lifl.auth import PLATFORM_AUDIENCE, AuthError, bearer, verify


class Access:
    """The checks; each raises AuthError (401 or 403) or returns.

    With ``on`` False clients and readers are let in unseen; other gateways
    never are.
    """

    def __init__(self, secret: bytes, *, on: bool) -> None:
        self._secret = secret
        self._on = on

    def client(self, request: Request, view: JobView, client: str) -> None:
        """Let one of the job's clients in, as itself."""
        if not self._on:
            return
        subject = verify(_token(request), view.auth_key, view.job, "client")
        if subject != client:
            raise AuthError(
                403, "token-other-client", f"the token is {subject!r}'s, not {client[:80]!r}'s"
            )

    def reader(self, request: Request, view: JobView) -> None:
        """Let the job's clients and submitter in, and other gateways."""
        if not self._on:
            return
        token = _token(request)
        try:
            verify(token, view.auth_key, view.job, "client")
        except AuthError as first:
            if not (
                _passes(token, view.auth_key, view.job, "submit")
                or _passes(token, self._secret, PLATFORM_AUDIENCE, "platform")
            ):
                raise first from None

    def platform(self, request: Request) -> None:
        """Let other parts of the platform in."""
        verify(_token(request), self._secret, PLATFORM_AUDIENCE, "platform")


def _token(request: Request) -> str:
    return bearer(request.headers.get("Authorization"))


def _passes(token: str, key: bytes, audience: str, scope: str) -> bool:
    try:
        verify(token, key, audience, scope)
    except AuthError:
        return False
    return True
