"""A FederatedJob's status and events, from facts alone."""

from __future__ import annotations

import base64
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.federatedjob import (
    CONDITIONS,
    NOT_YET,
    SENDING,
    Custom,
    Step,
    awaiting_model,
    condition,
    steps_of,
)
from controller.cluster.jobnotes import Note, notes
from controller.cluster.jobstatus import Facts, status
from lifl.topology import Level, Plan, Role, Timing

T1, T2, T3 = ("2026-11-26T10:00:00Z", "2026-11-26T10:00:05Z", "2026-11-26T11:00:00Z")
SPEC = {"rounds": 20, "clients": {"perRound": 10}}
JOB = Custom("digits", "lifl", "u1", 1, SPEC, {})
SUBMITTED = Step(True, "Submitted", "")
UNREACHABLE = Step(False, "CoordinatorUnavailable", "no answer")
TAKEN = Step(False, "NameTaken", "there is a job 'digits' already", final=True)
AWAITING = awaiting_model("digits")
PLAN = Plan(
    "digits",
    3,
    1,
    Timing.EAGER,
    (
        Role("a", "n1", Level.TOP, 2),
        Role("b", "n1", Level.LEAF, 5, "a"),
        Role("c", "n2", Level.LEAF, 5, "a"),
    ),
)


def told(state: str = "running", **changes: Any) -> dict[str, Any]:
    """What the coordinator says of the job."""
    head = {"job": "digits", "state": state, "detail": "", "spec": JOB.document}
    if state == "submitted":
        return head
    progress = {"round": 3, "rounds": 20, "attempt": 1, "version": 2, "goal": 10, "accepted": 7}
    return head | progress | changes


def facts(**changes: Any) -> Facts:
    return replace(Facts(JOB, submitted=SUBMITTED, model=AWAITING), **changes)


def conditions(made: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in made["conditions"]}


def life(*stages: Facts) -> list[dict[str, Any]]:
    """Return the status after each of these facts."""
    shown: list[dict[str, Any]] = [{}]
    for i, stage in enumerate(stages):
        shown.append(status(shown[-1], stage, f"2026-11-26T10:00:{i:02}Z"))
    return shown[1:]


# -- the object ---------------------------------------------------------------------


def test_a_custom_resource_is_read_and_reduced_to_a_job_file() -> None:
    raw = {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {
            "name": "digits",
            "namespace": "lifl",
            "uid": "u1",
            "generation": 4,
            "managedFields": [{}],
            "annotations": {"a": "b"},
        },
        "spec": SPEC,
        "status": {"phase": "Running"},
    }
    custom = Custom.parse(raw)
    assert custom == Custom("digits", "lifl", "u1", 4, SPEC, {"phase": "Running"})
    assert custom.document == {
        "apiVersion": "lifl.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": "digits"},
        "spec": SPEC,
    }


def test_the_secret_belongs_to_the_job() -> None:
    secret = JOB.secret("ab" * 32)
    assert base64.b64decode(secret["data"]["auth_key"]) == b"ab" * 32
    assert secret["metadata"]["name"] == "digits-key" == JOB.secret_name
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("FederatedJob", "digits", "u1")
    assert "namespace" not in owner
    assert JOB.owns(secret)
    assert not replace(JOB, uid="u2").owns(secret)
    assert not JOB.owns({"metadata": {}})


# -- the status ---------------------------------------------------------------------


def test_a_job_that_is_not_submitted_yet_says_why() -> None:
    made = status({}, facts(submitted=UNREACHABLE, model=NOT_YET), T1)
    assert made["phase"] == "Pending"
    assert conditions(made) == dict.fromkeys(CONDITIONS[:5], "False")
    why = condition(made, "Submitted")
    assert why == {
        "type": "Submitted",
        "status": "False",
        "reason": "CoordinatorUnavailable",
        "message": "no answer",
        "lastTransitionTime": T1,
    }
    assert "secretName" not in made and "startTime" not in made


def test_a_name_that_is_taken() -> None:
    made = status({}, facts(submitted=TAKEN), T1)
    assert made["phase"] == "Refused"
    assert condition(made, "Submitted")["reason"] == "NameTaken"  # type: ignore[index]
    again = status(made, facts(submitted=steps_of(made)[0]), T2)
    assert again["phase"] == "Refused"


def test_a_job_that_waits_for_its_model_says_how_to_send_it() -> None:
    made = status({}, facts(job=told("submitted")), T1)
    assert (made["phase"], made["secretName"]) == ("AwaitingModel", "digits-key")
    assert "round" not in made and "startTime" not in made
    waits = condition(made, "ModelReceived")
    assert waits is not None
    assert waits["reason"] == "AwaitingModel"
    assert "lifl job model digits model.safetensors --gateway URL" in waits["message"]
    assert "digits-key" in waits["message"]
    named = awaiting_model("digits", "http://gateway.lifl.example").message
    assert "--gateway http://gateway.lifl.example" in named


def test_a_running_job() -> None:
    made = status({}, facts(job=told(), plan=PLAN, accuracy=0.98046), T1)
    shown = {k: v for k, v in made.items() if k != "conditions"}
    assert shown == {
        "observedGeneration": 1,
        "phase": "Running",
        "secretName": "digits-key",
        "round": "3/20",
        "updates": "7/10",
        "attempt": 1,
        "version": 2,
        "nodes": 2,
        "aggregators": 3,
        "levels": 2,
        "accuracy": 0.98046,
        "accuracyPercent": "98.05%",
        "startTime": T1,
    }
    assert conditions(made) == {
        "Submitted": "True",
        "ModelReceived": "True",
        "Running": "True",
        "Complete": "False",
        "Failed": "False",
    }


def test_before_clients_are_chosen_the_job_files_number_is_shown() -> None:
    made = status({}, facts(job=told(goal=0, accepted=0)), T1)
    assert (made["updates"], made["nodes"], made["aggregators"]) == ("0/10", 0, 0)


def test_between_two_plans_the_last_one_is_shown() -> None:
    first, second = life(facts(job=told(), plan=PLAN, accuracy=0.5), facts(job=told(round=4)))
    assert (second["round"], second["nodes"], second["aggregators"]) == ("4/20", 2, 3)
    assert second["accuracyPercent"] == first["accuracyPercent"] == "50.00%"


def test_a_silent_coordinator_wipes_nothing_out() -> None:
    before = status({}, facts(job=told(), plan=PLAN, accuracy=0.5), T1)
    assert status(before, facts(plan=PLAN), T2) == before
    assert status(before, facts(), T2) == before


@pytest.mark.parametrize(
    ("state", "phase", "true"),
    [("done", "Complete", "Complete"), ("stopped", "Stopped", ""), ("failed", "Failed", "Failed")],
)
def test_the_ends_of_a_job(state: str, phase: str, true: str) -> None:
    running, over, later = life(
        facts(job=told(), plan=PLAN),
        facts(job=told(state, detail="diverged"), plan=PLAN),
        facts(job=told(state, detail="diverged"), accuracy=0.9),
    )
    assert (over["phase"], over["nodes"], over["aggregators"]) == (phase, 0, 0)
    assert over["startTime"] == running["startTime"] == "2026-11-26T10:00:00Z"
    assert over["completionTime"] == later["completionTime"] == "2026-11-26T10:00:01Z"
    assert later["accuracyPercent"] == "90.00%"
    for kind in ("Running", "Complete", "Failed"):
        found = condition(over, kind)
        assert found is not None and found["status"] == str(kind == true)
    failed = condition(over, "Failed")
    assert failed is not None and (failed["message"] == "diverged") == (state == "failed")


def test_a_job_that_ended_before_it_had_a_model() -> None:
    made = life(facts(job=told("submitted")), facts(job=told("submitted") | {"state": "stopped"}))
    assert made[1]["phase"] == "Stopped"
    assert conditions(made[1])["ModelReceived"] == "False"


def test_dates_of_conditions_change_with_their_status_only() -> None:
    first = status({}, facts(job=told("submitted")), T1)
    second = status(first, facts(job=told("submitted"), model=SENDING), T2)
    third = status(second, facts(job=told()), T3)
    dates = [condition(s, "ModelReceived")["lastTransitionTime"] for s in (first, second, third)]  # type: ignore[index]
    assert dates == [T1, T1, T3]
    assert condition(third, "Submitted")["lastTransitionTime"] == T1  # type: ignore[index]


def test_a_job_the_coordinator_has_lost() -> None:
    running, gone, later = life(facts(job=told()), facts(gone=True), facts(gone=True))
    assert gone["phase"] == "Failed"
    failed = condition(gone, "Failed")
    assert failed is not None and failed["reason"] == "Gone"
    assert later == gone
    assert gone["round"] == running["round"]


def test_a_job_that_is_over_stays_so_when_the_coordinator_forgets_it() -> None:
    _, complete, later = life(facts(job=told()), facts(job=told("done")), facts(gone=True))
    assert later == complete


def test_a_job_that_comes_back() -> None:
    gone, back = life(facts(gone=True), facts(job=told()))
    assert "completionTime" in gone
    assert back["phase"] == "Running" and "completionTime" not in back
    assert conditions(back)["Failed"] == "False"


def test_a_spec_that_was_changed_where_the_api_server_let_it() -> None:
    changed = replace(JOB, generation=2, spec=SPEC | {"rounds": 30})
    first, second, silent, undone = life(
        facts(job=told()),
        facts(custom=changed, job=told()),
        facts(custom=changed),
        facts(custom=replace(JOB, generation=3), job=told()),
    )
    assert condition(first, "SpecChanged") is None
    found = condition(second, "SpecChanged")
    assert found is not None and (found["status"], found["reason"]) == ("True", "Immutable")
    assert (second["observedGeneration"], second["round"]) == (2, "3/20")
    assert silent == second
    assert conditions(undone)["SpecChanged"] == "False"


def test_the_steps_are_found_again_in_the_status() -> None:
    assert steps_of({}) == (NOT_YET, NOT_YET)
    made = status({}, facts(job=told("submitted")), T1)
    submitted, model = steps_of(made)
    assert submitted.done and not submitted.final
    assert (model.done, model.reason, model.message) == (False, AWAITING.reason, AWAITING.message)
    refused, _ = steps_of(status({}, facts(submitted=TAKEN), T1))
    assert refused == TAKEN


STEPS = st.sampled_from([NOT_YET, UNREACHABLE, TAKEN, SUBMITTED])
STATES = st.sampled_from(["submitted", "running", "done", "stopped", "failed"])
ANYTHING = st.builds(
    Facts,
    custom=st.just(JOB),
    submitted=STEPS,
    model=st.sampled_from([NOT_YET, SENDING, AWAITING]),
    job=st.none() | st.builds(told, STATES, round=st.integers(1, 20), attempt=st.integers(1, 3)),
    gone=st.booleans(),
    accuracy=st.none() | st.floats(0, 1),
    plan=st.none() | st.just(PLAN),
)


@given(st.lists(ANYTHING, min_size=1, max_size=6))
def test_whatever_happens(stages: list[Facts]) -> None:
    """Every status has its conditions once, with dates; the same facts change nothing."""
    shown: dict[str, Any] = {}
    for i, stage in enumerate(stages):
        now = f"2026-11-26T10:00:{i:02}Z"
        made = status(shown, stage, now)
        kinds = [c["type"] for c in made["conditions"]]
        assert kinds[:5] == list(CONDITIONS[:5]) and len(set(kinds)) == len(kinds)
        assert sum(conditions(made)[k] == "True" for k in ("Running", "Complete", "Failed")) <= 1
        assert all(c["lastTransitionTime"] <= now for c in made["conditions"])
        assert status(made, stage, "2026-11-27T00:00:00Z") == made
        assert notes(made, made) == []
        shown = made


# -- the events ---------------------------------------------------------------------


def story(*stages: Facts) -> list[list[Note]]:
    """Return what is told at each of these facts."""
    shown = [{}, *life(*stages)]
    return [notes(before, now) for before, now in itertools.pairwise(shown)]


def reasons(found: list[Note]) -> list[str]:
    return [("!" if n.warning else "") + n.reason for n in found]


def test_the_events_of_a_jobs_life() -> None:
    first = told(round=1, version=0, accepted=0)
    found = story(
        facts(submitted=NOT_YET, model=NOT_YET),
        facts(submitted=UNREACHABLE, model=NOT_YET),
        facts(submitted=UNREACHABLE, model=NOT_YET),
        facts(job=told("submitted"), model=SENDING),
        facts(job=told("submitted")),
        facts(job=first),
        facts(job=first, plan=PLAN),
        facts(job=first | {"accepted": 7}, plan=PLAN),
        facts(job=told(round=2, version=1), plan=PLAN),
        facts(job=told(round=2, version=1)),
        facts(job=told(round=2, version=1, attempt=2)),
        facts(job=told(round=2, version=1, attempt=2), plan=PLAN),
        facts(job=told("done", round=20, version=20), accuracy=0.9805),
        facts(gone=True),
    )
    assert [reasons(n) for n in found] == [
        [],
        ["!CoordinatorUnavailable"],
        [],
        ["Submitted"],
        ["AwaitingModel"],
        ["ModelReceived"],
        ["Planned"],
        [],
        ["FirstVersion"],
        [],
        ["!RoundRetried"],
        [],
        ["Complete"],
        [],
    ]
    assert found[6][0].message == "10 updates on 2 nodes, 3 aggregators, 2 levels"
    assert "round 2 is tried again: attempt 2" in found[10][0].message
    assert found[12][0].message == "20 rounds are done, accuracy 98.05%"


def test_a_new_shape_is_told_and_a_small_one_in_the_singular() -> None:
    lone = replace(PLAN, roles=(Role("a", "n1", Level.TOP, 10),))
    found = story(facts(job=told(), plan=PLAN), facts(job=told(), plan=lone))
    assert found[1] == [Note("Planned", "10 updates on 1 node, 1 aggregator, 1 level")]


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (facts(submitted=TAKEN), "!NameTaken"),
        (facts(job=told("failed", detail="diverged")), "!Failed"),
        (facts(job=told("stopped")), "Stopped"),
        (facts(gone=True), "!Gone"),
        (facts(custom=replace(JOB, spec={**SPEC, "rounds": 9}), job=told()), "!Immutable"),
    ],
)
def test_what_ends_a_job_is_told_once(stage: Facts, reason: str) -> None:
    assert reasons(story(stage)[0])[-1] == reason
    assert story(stage, stage)[1] == []


def test_a_restarted_controller_tells_nothing_twice() -> None:
    shown = life(facts(job=told(), plan=PLAN, accuracy=0.5))[0]
    submitted, model = steps_of(shown)
    fresh = Facts(replace(JOB, status=shown), submitted, model)
    assert notes(shown, status(shown, fresh, T3)) == []
    fresh = replace(fresh, job=told(), plan=PLAN)
    assert status(shown, fresh, T3) == shown
