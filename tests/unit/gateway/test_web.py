"""What a poll is answered, and that nothing happens between its question and its wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any, cast

import gevent

from functions.gateway.gateway import Gateway
from functions.gateway.polls import Polls
from functions.gateway.views import JobView
from functions.gateway.web import YIELD, create_app

PATIENCE = 20.0


def view(**changes: Any) -> JobView:
    raw = {"job": "digits", "round": 3, "assignment": 5, "version": 2, "phase": "closing"}
    return JobView.from_json({**raw, "auth_key": "00" * 32, **changes})


class Shown:
    """A gateway that knows one job, and whose greenlets run when a poll lets them."""

    def __init__(self, now: JobView) -> None:
        self.now = now
        self.polls = Polls()
        settings = SimpleNamespace(
            poll_cap=PATIENCE,
            public_url="",
            url="http://here",
            function=SimpleNamespace(platform_secret=b"s" * 32, auth=False),
        )
        watch = SimpleNamespace(view=lambda _: self.now, met=lambda *_: None)
        gateway = SimpleNamespace(settings=settings, watch=watch, polls=self.polls, node="node-1")
        self.http = create_app(cast("Gateway", gateway)).test_client()

    def take(self, news: JobView) -> None:
        """Do as the watch does."""
        self.now = news
        self.polls.changed(news)

    def poll(self, yielding: Callable[[], AbstractContextManager[None]]) -> dict[str, Any]:
        """Ask for a round after the third."""
        path = f"/v1/jobs/digits/rounds/current?client=a&after=3&wait={PATIENCE}"
        answer = self.http.get(path, environ_overrides={YIELD: yielding})
        assert answer.status_code == 200, answer.data
        return cast("dict[str, Any]", answer.json)


def test_a_round_that_opens_while_a_poll_lets_others_run_is_told_at_once() -> None:
    shown = Shown(view())

    @contextmanager
    def news_come_in() -> Iterator[None]:
        shown.take(view(round=4, phase="open"))
        yield

    with gevent.Timeout(PATIENCE / 2):  # it once waited until its patience was at an end
        told = shown.poll(news_come_in)
    assert (told["round"], told["state"]) == (4, "open")


def test_a_poll_waits_until_there_is_a_round_for_it() -> None:
    shown = Shown(view())

    @contextmanager
    def nothing() -> Iterator[None]:
        yield

    asking = gevent.spawn(shown.poll, nothing)
    gevent.sleep(0)
    assert shown.polls.parked == 1
    shown.take(view(round=4, phase="open"))
    told = asking.get(timeout=PATIENCE / 2)
    assert told["round"] == 4
