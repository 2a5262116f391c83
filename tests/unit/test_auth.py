"""Tokens: the right one passes; a wrong, expired or other job's does not."""

from __future__ import annotations

import time

import pytest

from lifl.auth import (
    PLATFORM_AUDIENCE,
    AuthError,
    bearer,
    mint_client_token,
    mint_platform_token,
    mint_submitter_token,
    verify,
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
