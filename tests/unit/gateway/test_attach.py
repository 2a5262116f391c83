"""What a gateway tells the agent it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from functions.gateway import attach
from functions.gateway.attach import Attachments
from lifl.errors import RegistrationError


def test_it_shows_its_token_and_says_once_why_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Any] = []

    def refuse(path: Path, **said: Any) -> None:
        asked.append((path, said))
        raise RegistrationError("not here")

    monkeypatch.setattr(attach.Registration, "open", refuse)
    nothing: Any = lambda *_: None  # noqa: E731
    path = Path("/nowhere/agent.sock")
    attachments = Attachments(
        path, "gateway", "a.b.c", report=nothing, receive=nothing, attached=nothing, gone=nothing
    )
    with caplog.at_level("INFO", "lifl.gateway"):
        for _ in range(3):
            assert attachments._attach("digits") is None
    assert [r.getMessage() for r in caplog.records] == ["job digits: not attached yet: not here"]
    said = {"kind": "gateway", "name": "gateway", "domain": "digits", "token": "a.b.c"}
    assert asked == [(path, said)] * 3
