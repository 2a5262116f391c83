"""Tokens: the right one passes; a wrong, expired or other job's does not."""

from __future__ import annotations

import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.auth import (
    AGENT_AUDIENCE,
    ALGORITHM,
    ANY_JOB,
    ISSUER,
    PLATFORM_AUDIENCE,
    YEAR,
    AuthError,
    Registered,
    bearer,
    mint_client_token,
    mint_platform_token,
    mint_registration_token,
    mint_submitter_token,
    verify,
    verify_registration,
)

KEY, OTHER = b"k" * 32, b"o" * 32


def status(token: str, key: bytes = KEY, job: str = "digits", scope: str = "client") -> int:
    with pytest.raises(AuthError) as caught:
        verify(token, key, job, scope)
    return caught.value.status


def test_a_clients_token_names_the_client() -> None:
    assert verify(mint_client_token(KEY, "digits", "c1"), KEY, "digits", "client") == "c1"


def test_a_platform_token_names_the_part() -> None:
    token = mint_platform_token(KEY, "gateway")
    assert verify(token, KEY, PLATFORM_AUDIENCE, "platform") == "gateway"


def test_wrong_tokens_are_told_apart() -> None:
    assert status(mint_client_token(OTHER, "digits", "c1")) == 401
    assert status(mint_client_token(KEY, "digits", "c1", lifetime=-10)) == 401
    assert status(mint_client_token(KEY, "faces", "c1")) == 403
    assert status(mint_submitter_token(KEY, "digits")) == 403
    assert status("not-a-token") == 401


def test_a_token_that_was_good_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered that it was good, not that it is."""
    token = mint_client_token(KEY, "digits", "c1", lifetime=100)
    for _ in range(2):
        assert verify(token, KEY, "digits", "client") == "c1"
    later = time.time() + 101
    monkeypatch.setattr("lifl.auth.time.time", lambda: later)
    assert status(token) == 401


def test_a_token_that_was_good_is_still_good_for_one_thing_only() -> None:
    token = mint_client_token(KEY, "digits", "c1")
    assert verify(token, KEY, "digits", "client") == "c1"
    assert status(token, OTHER) == 401
    assert status(token, job="faces") == 403
    assert status(token, scope="submit") == 403
    assert status(token[:-2]) == 401


def test_an_unsigned_token_is_refused() -> None:
    head, body, _ = mint_client_token(KEY, "digits", "c1").split(".")
    assert status(f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.") == 401
    assert status(f"{head}.{body}.") == 401


@pytest.mark.parametrize("header", [None, "", "Basic abc", "Bearer", "Bearer  "])
def test_a_missing_token_is_401(header: str | None) -> None:
    with pytest.raises(AuthError) as caught:
        bearer(header)
    assert caught.value.status == 401


def test_the_scheme_is_case_insensitive() -> None:
    assert bearer("bearer abc") == "abc"


POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


def registration(secret: bytes = KEY, **changed: object) -> str:
    """Return a token as an agent expects it, but for what is changed; None leaves a claim out."""
    now = int(time.time())
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AGENT_AUDIENCE,
        "sub": POD,
        "scope": "register",
        "iat": now,
        "exp": now + 36_000,  # made at collection, shown minutes later
        "kind": "aggregator",
        "name": "digits-agg-3",
        "job": "digits",
    }
    claims = {k: v for k, v in (claims | changed).items() if v is not None}
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


@given(*[st.text(min_size=1)] * 4)
def test_a_registration_token_says_what_it_was_minted_for(
    pod: str, kind: str, name: str, job: str
) -> None:
    token = mint_registration_token(KEY, pod, kind=kind, name=name, job=job)
    assert verify_registration(token, KEY) == Registered(pod, kind, name, job)


def test_a_registration_token_lives_as_long_as_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    token = mint_registration_token(KEY, POD, kind="gateway", name="gateway", job=ANY_JOB)
    assert verify_registration(token, KEY).job == "*"
    later = time.time() + YEAR - 3600
    monkeypatch.setattr("lifl.auth.time.time", lambda: later)
    assert verify_registration(token, KEY).pod == POD
    monkeypatch.setattr("lifl.auth.time.time", lambda: later + 7200)
    with pytest.raises(AuthError) as caught:
        verify_registration(token, KEY)
    assert (caught.value.status, caught.value.code) == (401, "token-expired")


@pytest.mark.parametrize(
    ("token", "status"),
    [
        (registration(OTHER), 401),
        (registration(exp=int(time.time()) - 10), 401),
        (registration(exp=None), 401),
        (registration(sub=None), 401),
        (registration(sub=""), 401),
        (registration(iss="somebody"), 401),
        (registration(kind=None), 401),
        (registration(name=7), 401),
        (registration(job=["digits"]), 401),
        (registration(aud=PLATFORM_AUDIENCE), 403),
        (registration(scope="platform"), 403),
        (registration(scope=None), 403),
        (mint_platform_token(KEY, POD), 403),
        ("", 401),
        ("a.b.c", 401),
    ],
)
def test_no_other_token_registers(token: str, status: int) -> None:
    with pytest.raises(AuthError) as caught:
        verify_registration(token, KEY)
    assert caught.value.status == status


def test_a_registration_token_is_good_for_nothing_else() -> None:
    assert verify_registration(registration(), KEY).name == "digits-agg-3"
    assert status(registration(), job=PLATFORM_AUDIENCE, scope="platform") == 403
    assert status(registration(), job="digits") == 403


def test_a_clock_that_is_ahead_does_no_harm() -> None:
    """The controller minted it on a node whose clock is a minute ahead of the agent's."""
    assert verify_registration(registration(iat=int(time.time()) + 60), KEY).pod == POD
