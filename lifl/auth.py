"""Bearer tokens: who may post to a job, and who is a part of the platform.

Why: a job's submitter holds the job's key and mints tokens for its clients
without asking the platform (HS256, RFC 7519); parts of the platform show each
other tokens made from the platform's secret; a function in a pod shows the node's
agent one that was made for that very pod. This is the one importer of jwt.
It must not do I/O.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jwt

from lifl.errors import PermanentError

ALGORITHM = "HS256"
ISSUER = "lifl"
PLATFORM_AUDIENCE = "lifl-platform"
AGENT_AUDIENCE = "lifl-agent"
ANY_JOB = "*"
"""In a registration token: the function serves all jobs."""
YEAR = 365 * 86400.0
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


@dataclass(frozen=True, slots=True)
class Registered:
    """What a registration token says: the function in pod ``pod`` (its UID) may be this one."""

    pod: str
    kind: str
    name: str
    job: str
    """A job's name, or ANY_JOB."""


def mint_client_token(job_key: bytes, job: str, client: str, *, lifetime: float = 86400.0) -> str:
    """Return a token with which ``client`` may take part in ``job`` for ``lifetime`` seconds."""
    return _mint(job_key, job, client, "client", lifetime)


def mint_submitter_token(job_key: bytes, job: str, *, lifetime: float = 86400.0) -> str:
    """Return a token with which the job may be watched and stopped."""
    return _mint(job_key, job, "submitter", "submit", lifetime)


def mint_platform_token(secret: bytes, subject: str, *, lifetime: float = 3600.0) -> str:
    """Return a token by which one part of the platform knows another."""
    return _mint(secret, PLATFORM_AUDIENCE, subject, "platform", lifetime)


def mint_registration_token(
    secret: bytes, pod_uid: str, *, kind: str, name: str, job: str, lifetime: float = YEAR
) -> str:
    """Return a token with which the function in pod ``pod_uid`` may register with an agent.

    ``kind``, ``name`` and ``job`` (or ANY_JOB) are what it may register as. It lives long
    (``lifetime`` in seconds): a pod gets it once, in its environment, and needs it for as
    long as it runs, while it is worth nothing to anybody but that pod and nothing after it.
    """
    return _mint(
        secret, AGENT_AUDIENCE, pod_uid, "register", lifetime, kind=kind, name=name, job=job
    )


def _mint(key: bytes, audience: str, subject: str, scope: str, lifetime: float, **more: str) -> str:
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": audience,
        "sub": subject,
        "scope": scope,
        "iat": int(now),
        "exp": int(now + lifetime),
        **more,
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
        # "iat" is no "not before": the clock of the node that minted it may be ahead.
        options={"require": ["exp", "sub", "aud"], "verify_iat": False},
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
    return str(_claims(token, key, audience, scope)["sub"])


def verify_registration(token: str, secret: bytes) -> Registered:
    """Return what a registration token allows, and to which pod.

    Raises
    ------
    AuthError
        as :func:`verify` does.
    """
    claims = _claims(token, secret, AGENT_AUDIENCE, "register")
    said = [claims["sub"], *(claims.get(name) for name in ("kind", "name", "job"))]
    if not all(isinstance(value, str) and value for value in said):
        raise AuthError(401, "token-invalid", "the token does not say for which function it is")
    return Registered(*said)


def _claims(token: str, key: bytes, audience: str, scope: str) -> Mapping[str, Any]:
    """Return what a token says; raises AuthError."""
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
    return claims
