"""Leadership at a real API server: taken, kept, lost, given up, and never held by two."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.clients.api import Cluster
from controller.clients.errors import Conflict
from controller.clients.kinds import LEASE, NAMESPACE
from controller.cluster.election import Timing
from controller.leadership import NAME as LEASE_NAME
from controller.leadership import Leadership

from .apiserver import ApiServer
from .roles import SYSTEM, controller_login

NAME_SPACE = "leaders"
QUICK = Timing(lease=3.0, renew=2.0, retry=0.3)
ROOT = Path(__file__).parents[2]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def admin(apiserver: ApiServer) -> Iterator[Cluster]:
    connected = Cluster.connect(apiserver.admin)
    if connected.find(NAMESPACE, NAME_SPACE) is None:
        connected.create(NAMESPACE, {"metadata": {"name": NAME_SPACE}})
    yield connected
    connected.close()


@pytest.fixture
def lease() -> str:
    return f"lease-{next(_numbers)}"


class Candidate:
    """One candidate, and what it was told."""

    def __init__(self, cluster: Cluster, lease: str, name: str, timing: Timing = QUICK) -> None:
        self.started, self.lost = threading.Event(), threading.Event()
        self.leadership = Leadership(
            cluster,
            NAME_SPACE,
            name,
            on_started=self.started.set,
            on_lost=self.lost.set,
            name=lease,
            timing=timing,
        )

    def __enter__(self) -> Candidate:
        self.leadership.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leadership.stop()


def holder(admin: Cluster, lease: str) -> str:
    return str(admin.get(LEASE, lease, NAME_SPACE)["spec"].get("holderIdentity"))


def test_one_leads_and_keeps_leading(admin: Cluster, lease: str) -> None:
    with Candidate(admin, lease, "a") as one:
        assert one.started.wait(10)
        with Candidate(admin, lease, "b") as two:
            assert not two.started.wait(QUICK.lease + 1)
            assert one.leadership.leading
            assert not two.leadership.leading
            assert two.leadership.holder == "a"
        assert not one.lost.is_set()
        spec = admin.get(LEASE, lease, NAME_SPACE)["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("a", 3)
        assert spec["renewTime"] > spec["acquireTime"]


def test_who_stops_gives_it_up_and_the_next_has_it_at_once(admin: Cluster, lease: str) -> None:
    threads = set(threading.enumerate())
    with Candidate(admin, lease, "a") as one:
        assert one.started.wait(10)
        with Candidate(admin, lease, "b") as two:
            assert not two.started.wait(0.5)
            one.leadership.stop()
            began = time.monotonic()
            assert two.started.wait(10)
            assert time.monotonic() - began < QUICK.lease / 2
            assert not one.leadership.leading
            assert not one.lost.is_set()
            assert admin.get(LEASE, lease, NAME_SPACE)["spec"]["leaseTransitions"] == 1
    assert set(threading.enumerate()) <= threads


def test_who_stops_as_a_candidate_leaves_the_lease_alone(admin: Cluster, lease: str) -> None:
    with Candidate(admin, lease, "a") as one:
        assert one.started.wait(10)
        with Candidate(admin, lease, "b"):
            pass
        assert holder(admin, lease) == "a"


def test_of_many_that_start_at_once_one_leads(admin: Cluster, lease: str) -> None:
    candidates = [Candidate(admin, lease, f"c{i}") for i in range(5)]
    for one in candidates:
        one.leadership.start()
    try:
        deadline = time.monotonic() + 10
        while not any(c.started.is_set() for c in candidates):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(3 * QUICK.retry)
        assert sum(c.started.is_set() for c in candidates) == 1
    finally:
        for one in candidates:
            one.leadership.stop()


def test_a_lease_that_another_took_is_lost_at_the_next_look(admin: Cluster, lease: str) -> None:
    with Candidate(admin, lease, "a") as one:
        assert one.started.wait(10)
        while True:
            taken = admin.get(LEASE, lease, NAME_SPACE)
            taken["spec"]["holderIdentity"] = "thief"
            try:
                admin.replace(LEASE, taken, NAME_SPACE)
                break
            except Conflict:
                continue
        assert one.lost.wait(5)
        assert not one.leadership.leading
        assert holder(admin, lease) == "thief"
    assert holder(admin, lease) == "thief"


def test_a_change_of_the_lease_by_somebody_else_loses_nothing(admin: Cluster, lease: str) -> None:
    with Candidate(admin, lease, "a") as one:
        assert one.started.wait(10)
        for i in range(20):
            note = {"metadata": {"annotations": {"touched": str(i)}}}
            admin.patch(LEASE, lease, note, NAME_SPACE)
            time.sleep(0.05)
        assert not one.lost.wait(2 * QUICK.retry)
        assert one.leadership.leading
        assert admin.get(LEASE, lease, NAME_SPACE)["metadata"]["annotations"]["touched"] == "19"


def test_a_server_that_is_away_for_long_ends_leadership_in_time_a_short_while_does_not(
    admin: Cluster, lease: str, apiserver: ApiServer
) -> None:
    with Candidate(admin, lease, "a", Timing(lease=25.0, renew=20.0, retry=0.3)) as patient:
        assert patient.started.wait(10)
        with Candidate(admin, f"{lease}-quick", "a") as one:
            assert one.started.wait(10)
            apiserver.stop()
            try:
                began = time.monotonic()
                assert one.lost.wait(10)
                assert time.monotonic() - began < QUICK.renew + 0.5
                assert not one.leadership.leading
            finally:
                apiserver.start()
        assert patient.leadership.leading
        assert not patient.lost.is_set()
        assert patient.leadership.holder == "a"


def test_a_server_that_is_away_at_first_is_waited_for(
    admin: Cluster, lease: str, apiserver: ApiServer
) -> None:
    apiserver.stop()
    try:
        with Candidate(admin, lease, "a") as one:
            assert not one.started.wait(1)
            apiserver.start()
            assert one.started.wait(10)
    finally:
        if "kube-apiserver" not in apiserver.pids:
            apiserver.start()


def test_the_controller_s_own_rights_are_enough(admin: Cluster, apiserver: ApiServer) -> None:
    own = Cluster.connect(controller_login(apiserver, admin))
    started = threading.Event()
    candidate = Leadership(own, SYSTEM, "a", on_started=started.set, on_lost=pytest.fail)
    candidate.start()
    try:
        assert started.wait(10)
    finally:
        candidate.stop()
        own.close()
    assert admin.get(LEASE, LEASE_NAME, SYSTEM)["spec"]["holderIdentity"] == ""


PROGRAM = textwrap.dedent(
    """
    import os, sys, threading
    from pathlib import Path
    from controller.clients.api import Cluster
    from controller.cluster.election import Timing
    from controller.leadership import Leadership

    def say(word):
        print(word, flush=True)

    def lost():
        say("lost " + str(leadership.leading))
        os._exit(3)

    leadership = Leadership(
        Cluster.connect(Path(sys.argv[1])),
        sys.argv[2],
        "process",
        on_started=lambda: say("started"),
        on_lost=lost,
        name=sys.argv[3],
        timing=Timing(3.0, 2.0, 0.3),
    )
    leadership.start()
    threading.Event().wait()
    """
)


@pytest.fixture
def process(apiserver: ApiServer, admin: Cluster, lease: str) -> Iterator[subprocess.Popen[str]]:
    """Run a leader in a process of its own."""
    command = [sys.executable, "-c", PROGRAM, str(apiserver.admin), NAME_SPACE, lease]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        yield running
        running.kill()


def test_a_killed_leader_is_followed_when_its_lease_has_run_out(
    admin: Cluster, lease: str, process: subprocess.Popen[str]
) -> None:
    with Candidate(admin, lease, "b") as two:
        assert not two.started.wait(0.5)
        process.kill()
        began = time.monotonic()
        assert two.started.wait(20)
        waited = time.monotonic() - began
        assert QUICK.lease - 2 * QUICK.retry < waited < QUICK.lease + 4 * QUICK.retry


def test_a_leader_that_was_stopped_for_a_while_knows_that_it_lost(
    admin: Cluster, lease: str, process: subprocess.Popen[str]
) -> None:
    with Candidate(admin, lease, "b") as two:
        os.kill(process.pid, signal.SIGSTOP)
        assert two.started.wait(20)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout is not None
        assert process.stdout.readline() == "lost False\n"
        assert process.wait(10) == 3
        assert two.leadership.leading
        assert holder(admin, lease) == "b"
