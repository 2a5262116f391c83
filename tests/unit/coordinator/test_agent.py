"""What the coordinator tells the agent it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from functions.coordinator import service
from lifl.settings import FunctionSettings


def test_it_shows_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(service.Registration, "open", lambda *a, **k: asked.append((a, k)))
    env = {"LIFL_NAME": "coordinator", "LIFL_REGISTRATION": "a.b.c", "LIFL_AGENT_SOCKET": "/x"}
    service.connect_to_agent(FunctionSettings.from_env(env))("digits")
    [((path,), said)] = asked
    assert path == Path("/x")
    assert said["token"] == "a.b.c"
    assert (said["kind"], said["name"], said["domain"]) == ("coordinator", "coordinator", "digits")
