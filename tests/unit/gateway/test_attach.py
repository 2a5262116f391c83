"""What a gateway tells the agent it is, and when a pool may be unmapped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest

from functions.gateway import attach
from functions.gateway.attach import Attachment, Attachments
from functions.gateway.ingest import Ingest
from lifl.errors import RegistrationError, Unavailable
from lifl.store import SlotRef


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


class FakeRegistration:
    """Notes that it was closed."""

    pool = "the pool"
    closed = False

    def close(self) -> None:
        self.closed = True


def attachment() -> tuple[Attachment, FakeRegistration]:
    registration = FakeRegistration()
    return Attachment("digits", registration), registration  # type: ignore[arg-type]


def test_a_pool_is_unmapped_when_the_last_user_has_gone_and_not_used_afterwards() -> None:
    made, registration = attachment()
    with made.use():
        closing = gevent.spawn(made.close)
        gevent.sleep(0)
        assert not registration.closed
        with made.use() as pool:
            assert pool == "the pool"
    closing.join()
    assert registration.closed
    with pytest.raises(Unavailable, match="digits"), made.use():
        pass


def test_an_update_whose_pool_went_after_its_last_byte_gives_its_claim_back() -> None:
    """Between two greenlets: received in one, to be counted in the next."""

    class Admission:
        withdrawn = 0

        def withdraw(self) -> None:
            self.withdrawn += 1

    made, _ = attachment()
    made.close()
    admission, nothing = Admission(), cast(Any, None)
    ingest = Ingest(nothing, nothing, "node-0", "boot")
    upload = cast(Any, SimpleNamespace(admission=admission))
    with pytest.raises(Unavailable, match="send it again"):
        ingest._settle(made, upload, SlotRef(0, 1), "digest", nothing)
    assert admission.withdrawn == 1
