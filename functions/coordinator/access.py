"""Who may call what.

Why: the platform's parts show a token of the platform's secret, a job's
submitter one of the job's key; both mean the same in one place. It must not
know routes.
"""

from __future__ import annotations

from flask import Request

from lifl.auth import PLATFORM_AUDIENCE, AuthError, bearer, verify


class Access:
    """The checks; each raises AuthError (401 or 403) or returns.

    ``public_auth`` False leaves management open to everybody; internal
    endpoints stay closed as long as there is a ``secret``.
    """

    def __init__(self, secret: bytes, *, public_auth: bool) -> None:
        self._secret = secret
        self._public_auth = public_auth

    def internal(self, request: Request) -> None:
        """Let parts of the platform in."""
        if self._secret:
            self._platform(bearer(request.headers.get("Authorization")))

    def platform(self, request: Request) -> None:
        """Let whoever may submit jobs in."""
        if self._public_auth:
            self._platform(bearer(request.headers.get("Authorization")))

    def submitter(self, request: Request, job: str, auth_key: str) -> None:
        """Let a job's submitter and the platform in."""
        if not self._public_auth:
            return
        token = bearer(request.headers.get("Authorization"))
        try:
            self._platform(token)
        except AuthError:
            verify(token, bytes.fromhex(auth_key), job, "submit")

    def _platform(self, token: str) -> None:
        verify(token, self._secret, PLATFORM_AUDIENCE, "platform")
