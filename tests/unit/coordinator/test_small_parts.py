"""Watch, nodes, alarm, metrics of clients, settings, problem documents."""

from __future__ import annotations

import threading
import time

import pytest

from functions.coordinator.alarm import Alarm
from functions.coordinator.nodes import NodeTable
from functions.coordinator.problems import Refused, problem
from functions.coordinator.records import Claim
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.summaries import mean_metrics
from functions.coordinator.watch import Revisions
from lifl.auth import AuthError
from lifl.errors import ConfigError, Unavailable

# -- watch --------------------------------------------------------------------


class Waiter(threading.Thread):
    def __init__(self, revisions: Revisions, since: int) -> None:
        super().__init__()
        self.revisions, self.since, self.got = revisions, since, 0
        self.start()

    def run(self) -> None:
        self.got = self.revisions.wait(self.since, 10)


@pytest.fixture
def revisions():
    return Revisions(lambda revision: b"%d" % revision)


def test_a_watch_returns_when_something_changed(revisions):
    waiters = [Waiter(revisions, revisions.revision) for _ in range(3)]
    revisions.bump()
    for w in waiters:
        w.join(5)
        assert w.got == revisions.revision


def test_a_watch_of_another_revision_returns_at_once(revisions):
    start = time.monotonic()
    revisions.wait(0, 10)
    revisions.wait(revisions.revision + 5, 10)
    assert time.monotonic() - start < 5


def test_a_watch_ends_in_time(revisions):
    assert revisions.wait(revisions.revision, 0.01) == revisions.revision


def test_small_changes_become_one_revision(revisions):
    before = revisions.revision
    start = time.monotonic()
    waiters = [Waiter(revisions, before) for _ in range(3)]
    for _ in range(50):
        revisions.bump_within(0.1)
    for w in waiters:
        w.join(5)
    assert {w.got for w in waiters} == {before + 1}
    assert time.monotonic() - start >= 0.09


def test_a_small_change_before_the_watch_is_not_missed(revisions):
    before = revisions.revision
    revisions.bump_within(0.1)
    assert revisions.wait(before, 10) == before + 1


def test_an_answer_is_built_once_per_revision():
    built = []
    revisions = Revisions(lambda r: built.append(r) or b"x")  # type: ignore[func-returns-value]
    revisions.answer()
    revisions.answer()
    revisions.bump()
    revisions.answer()
    assert built == [revisions.revision - 1, revisions.revision]


def test_closing_lets_watchers_go(revisions):
    waiter = Waiter(revisions, revisions.revision)
    revisions.close()
    waiter.join(5)
    assert not waiter.is_alive()


def test_a_successor_counts_on():
    first = Revisions(lambda _: b"")
    time.sleep(0.002)
    assert Revisions(lambda _: b"").revision > first.revision


# -- nodes --------------------------------------------------------------------


def test_nodes_are_lost_after_silence():
    table = NodeTable(5)
    assert table.heartbeat("a", "http://a", {}, 0)
    assert not table.heartbeat("a", "http://a", {}, 1)
    assert table.heartbeat("a", "http://b", {}, 2)
    assert table.heartbeat("b", "http://c", {"x": 1}, 4)
    assert table.due() == 7
    assert table.expired(7) == []
    assert table.expired(7.1) == ["a"]
    assert table.urls() == {"b": "http://c"}
    row = {"node": "b", "url": "http://c", "public": "", "info": {"x": 1}}
    assert table.to_json() == [row]
    assert table.remove("b") and not table.remove("b")
    assert table.due() is None


def test_a_node_that_asks_for_something_is_alive():
    table = NodeTable(5)
    table.heartbeat("a", "http://a", {}, 0)
    table.heard("a", 4)
    table.heard("a", 3)  # a thread that was late
    table.heard("b", 4)  # not known: a node is one that has said where it is
    assert (table.due(), list(table.urls())) == (9, ["a"])
    assert (table.expired(9), table.expired(9.1)) == ([], ["a"])
    table.heard("a", 10)
    assert table.urls() == {}


def test_expected_nodes_have_time_to_report_and_are_not_shown():
    table = NodeTable(5)
    table.expect(["a"], 10)
    assert (table.urls(), table.to_json()) == ({}, [])
    assert table.expired(15) == []
    assert table.expired(16) == ["a"]


def test_where_clients_reach_a_node_is_said_by_itself_or_told_by_who_knows_better():
    table = NodeTable(5)
    assert table.tell("a", "http://told") is None  # not there yet: say it again
    assert table.heartbeat("a", "http://a", {}, 0, "http://said/x")
    assert table.public() == {"a": "http://said/x"}
    assert table.tell("a", "http://told") is True
    assert table.tell("a", "http://told") is False
    assert not table.heartbeat("a", "http://a", {}, 1, "http://said/x")
    assert table.public() == {"a": "http://told"}
    assert table.urls() == {"a": "http://a"}
    assert table.to_json()[0]["public"] == "http://told"
    assert table.tell("a", "") is True
    assert table.heartbeat("a", "http://a", {}, 2)
    assert table.public() == {}


def test_what_was_told_of_a_node_outlives_its_silence():
    table = NodeTable(5)
    table.heartbeat("a", "http://a", {}, 0)
    table.tell("a", "http://told")
    assert table.expired(9) == ["a"]
    assert table.heartbeat("a", "http://a", {}, 10)
    assert table.public() == {"a": "http://told"}
    table.remove("a")
    table.heartbeat("a", "http://a", {}, 11)
    assert table.public() == {}


def test_a_process_that_slept_forgives():
    table = NodeTable(5)
    table.heartbeat("a", "http://a", {}, 0)
    table.forgive(100)
    assert table.expired(104) == []


# -- alarm --------------------------------------------------------------------


def test_an_alarm_ticks_when_rung_and_survives_an_unavailable_store():
    ticks: list[float] = []
    ticked = threading.Semaphore(0)

    def tick() -> float:
        ticks.append(time.monotonic())
        ticked.release()
        if len(ticks) == 1:
            raise Unavailable("the store is away")
        return 60.0

    alarm = Alarm(tick, lambda seconds: None)
    alarm.start()
    for _ in range(3):
        assert ticked.acquire(timeout=5)
        alarm.ring()
    alarm.close()
    assert len(ticks) >= 3


def test_an_alarm_knows_that_it_overslept(monkeypatch):
    late: list[float] = []
    heard = threading.Event()
    alarm = Alarm(lambda: 0.0 if not late else 60.0, lambda s: (late.append(s), heard.set()))
    real, jump = time.monotonic, [0.0]

    def clock() -> float:
        jump[0] += 2.0  # each look at the clock is two seconds later
        return real() + jump[0]

    monkeypatch.setattr("functions.coordinator.alarm.time.monotonic", clock)
    alarm.start()
    assert heard.wait(5)
    monkeypatch.undo()
    alarm.close()
    assert late[0] >= 2.0


# -- summaries ----------------------------------------------------------------


def test_metrics_are_averaged_by_samples():
    def sent(n, metrics):
        return Claim(n, 1, f"c{n}", "n", "n", n, 1, metrics=metrics)

    claims = [
        sent(1, {"loss": 1.0, "flag": True, "text": "x"}),
        sent(3, {"loss": 3.0, "accuracy": 0.5}),
        sent(2, {"loss": float("nan"), "accuracy": float("inf")}),
        sent(5, None),
    ]
    assert mean_metrics(claims) == {"loss": 2.5, "accuracy": 0.5}


# -- settings -----------------------------------------------------------------


def test_settings_have_defaults_below_the_home():
    settings = CoordinatorSettings.from_env({"LIFL_HOME": "/x", "LIFL_PLATFORM_SECRET": "ab" * 32})
    assert settings.state_url == "sqlite:///x/state/lifl.db"
    assert str(settings.checkpoints) == "/x/state/checkpoints"
    assert (settings.node_timeout, settings.keep_versions) == (5.0, 2)


def test_without_a_secret_authentication_must_be_off():
    with pytest.raises(ConfigError, match="LIFL_PLATFORM_SECRET"):
        CoordinatorSettings.from_env({})
    assert not CoordinatorSettings.from_env({"LIFL_AUTH": "off"}).function.auth


SETTINGS = ["LIFL_NODE_TIMEOUT", "LIFL_WATCH_CAP", "LIFL_KEEP_VERSIONS", "LIFL_CHECKPOINT_BEHIND"]


@pytest.mark.parametrize("name", SETTINGS)
def test_wrong_settings_are_named(name):
    with pytest.raises(ConfigError, match=name):
        CoordinatorSettings.from_env({"LIFL_AUTH": "off", name: "never"})


# -- problems -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code", "header"),
    [
        (Refused(409, "round-closed", "x", where="round"), 409, "round-closed", None),
        (AuthError(401, "token-missing", "x"), 401, "token-missing", "WWW-Authenticate"),
        (AuthError(403, "token-scope", "x"), 403, "token-scope", None),
        (ConfigError("x"), 422, "unusable", None),
        (Unavailable("x", retry_after=2.5), 503, "try-again", "Retry-After"),
        (ZeroDivisionError("secret"), 500, "internal-error", None),
    ],
)
def test_problem_documents(error, status, code, header):
    document, answered, headers = problem(error, "/path")
    assert (answered, document["status"], document["code"]) == (status, status, code)
    assert document["instance"] == "/path" and document["type"].endswith(code)
    assert headers["Content-Type"] == "application/problem+json"
    assert header is None or header in headers
    assert "secret" not in str(document)
