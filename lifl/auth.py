"""Bearer tokens: who may post to a job, and who is a part of the platform.

Why: a job's submitter holds the job's key and mints tokens for its clients
without asking the platform (HS256, RFC 7519); parts of the platform show each
other tokens made from the platform's secret. This is the one importer of jwt.
It must not do I/O.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jwt

from lifl.errors import PermanentError

ALGORITHM = "HS256"
ISSUER = "lifl"
PLATFORM_AUDIENCE = "lifl-platform"
MIN_KEY_BYTES = 32
REMEMBERED = 4096
"""Tokens that were found good, of some 300 bytes each."""


class AuthError(PermanentError):
    """A token is missing, wrong, expired or another job's; ``status`` is 401 or 403."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


def mint_client_token(job_key: bytes, job: str, client: str, *, lifetime: float = 86400.0) -> str:
    """Return a token with which ``client`` may take part in ``job`` for ``lifetime`` seconds."""
    return _mint(job_key, job, client, "client", lifetime)


def mint_submitter_token(job_key: bytes, job: str, *, lifetime: float = 86400.0) -> str:
    """Return a token with which the job may be watched and stopped."""
    return _mint(job_key, job, "submitter", "submit", lifetime)


def mint_platform_token(secret: bytes, subject: str, *, lifetime: float = 3600.0) -> str:
    """Return a token by which one part of the platform knows another."""
    return _mint(secret, PLATFORM_AUDIENCE, subject, "platform", lifetime)


def _mint(key: bytes, audience: str, subject: str, scope: str, lifetime: float) -> str:
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": audience,
        "sub": subject,
        "scope": scope,
        "iat": int(now),
        "exp": int(now + lifetime),
    }
    return jwt.encode(claims, key, algorithm=ALGORITHM)


def bearer(header: str | None) -> str:
    """Return the token of an Authorization header.

    Raises
    ------
    AuthError
        401 if the header is missing or of another scheme.
    """
    scheme, _, token = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise AuthError(401, "token-missing", "send 'Authorization: Bearer TOKEN'")
    return token.strip()


@lru_cache(REMEMBERED)
def _decode(token: str, key: bytes, audience: str) -> Mapping[str, Any]:
    """Return what a token says; remembered, since a client shows one token with each request."""
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=[ALGORITHM],
        audience=audience,
        issuer=ISSUER,
        options={"require": ["exp", "sub", "aud"]},
    )
    return claims


def _expired() -> AuthError:
    return AuthError(401, "token-expired", "the token has expired; mint a new one")


def verify(token: str, key: bytes, audience: str, scope: str) -> str:
    """Return the subject of a token.

    Raises
    ------
    AuthError
        401 if it is malformed, expired or not signed by ``key``; 403 if it is
        valid for another audience (another job) or scope.
    """
    try:
        claims = _decode(token, key, audience)
    except jwt.ExpiredSignatureError:
        raise _expired() from None
    except jwt.InvalidAudienceError:
        raise AuthError(403, "token-other-job", f"the token is not for {audience}") from None
    except jwt.PyJWTError as e:
        raise AuthError(401, "token-invalid", f"the token is not valid: {e}") from None
    if int(claims["exp"]) <= time.time():  # it was valid when it was decoded
        raise _expired()
    if claims.get("scope") != scope:
        raise AuthError(403, "token-scope", f"the token's scope is not {scope!r}")
    return str(claims["sub"])
