"""The contract of an autoscaler class: ServerlessService, scale and status."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.autoscale import (
    CreateSks,
    Instruction,
    PatchSksMode,
    Pods,
    Scale,
    WriteStatus,
    decide,
)
from controller.cluster.targets import Bounds, condition

from .scaled import T0, Raw, autoscaler, initialized, serverless

T1 = "2026-11-26T10:00:05Z"
NOTHING = Bounds()


def pods(replicas: int, ready: int, desired: int, bounds: Bounds = NOTHING) -> Pods:
    return Pods(replicas, ready, desired, bounds)


def status(found: list[Instruction]) -> Raw:
    (written,) = (i.status for i in found if isinstance(i, WriteStatus))
    return dict(written)


def states(written: Raw) -> dict[str, str]:
    return {c["type"]: c["status"] for c in written["conditions"]}


def apply(pa: Raw, sks: Raw | None, seen: Pods, found: list[Instruction]) -> tuple[Any, ...]:
    """Do what the instructions say, as the API server would."""
    pa = copy.deepcopy(pa)
    for instruction in found:
        match instruction:
            case CreateSks(body):
                sks = copy.deepcopy(dict(body))
                sks["metadata"] |= {"uid": "sks", "generation": 1}
            case PatchSksMode(mode):
                assert sks is not None
                sks = {**sks, "spec": {**sks["spec"], "mode": mode}}
            case Scale(count):
                seen = Pods(count, seen.ready, seen.desired, seen.bounds)
            case WriteStatus(written):
                pa["status"] = {**pa.get("status", {}), **written}
    return pa, sks, seen


def test_a_new_revision_gets_its_serverless_service() -> None:
    pa = autoscaler()
    found = decide(pa, None, pods(1, 0, 1), now=T0)
    (body,) = (i.body for i in found if isinstance(i, CreateSks))
    assert body["metadata"]["name"] == pa["metadata"]["name"]
    assert body["metadata"]["labels"] == pa["metadata"]["labels"]
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (pa["metadata"]["uid"], True)
    assert body["spec"] == {
        "mode": "Proxy",
        "objectRef": pa["spec"]["scaleTargetRef"],
        "protocolType": "http1",
        "numActivators": 2,
    }
    assert not any(isinstance(i, Scale) for i in found)
    written = status(found)
    kinds = ("Active", "Ready", "SKSReady", "ScaleTargetInitialized")
    assert states(written) == dict.fromkeys(kinds, "Unknown")
    assert (written["serviceName"], written["metricsServiceName"]) == ("", ""), "the schema's will"


def test_a_revision_comes_up() -> None:
    pa = autoscaler()
    sks = serverless(pa, ready=True)
    found = decide(pa, sks, pods(1, 1, 1, Bounds(initial=1)), now=T0)
    assert found[0] == PatchSksMode("Serve")
    written = status(found)
    assert set(states(written).values()) == {"True"}
    assert len(written["conditions"]) == 4
    assert written["observedGeneration"] == 1
    assert (written["desiredScale"], written["actualScale"]) == (1, 1)
    assert written["serviceName"] == pa["metadata"]["name"]
    assert written["metricsServiceName"] == f"{pa['metadata']['name']}-private"


def test_at_zero_it_is_inactive_and_requests_are_held() -> None:
    pa = initialized(autoscaler())
    found = decide(pa, serverless(pa, mode="Serve", ready=True), pods(1, 1, 0), now=T0)
    assert found[:2] == [PatchSksMode("Proxy"), Scale(0)]
    written = status(found)
    assert condition(written, "Active")["reason"] == "NoTraffic"
    assert condition(written, "Ready")["reason"] == "NoTraffic"
    assert states(written)["Ready"] == "False"


def test_an_initial_scale_of_zero_is_up_without_a_pod() -> None:
    pa = autoscaler(initial_scale="0")
    found = decide(pa, serverless(pa, ready=False), pods(0, 0, 0), now=T0)
    assert states(status(found)) == {
        "Active": "False",
        "Ready": "False",
        "SKSReady": "Unknown",
        "ScaleTargetInitialized": "True",
    }


@pytest.mark.parametrize(
    ("up", "desired", "ready", "least", "active"),
    [
        (False, 0, 0, 0, "Unknown"),
        (False, 1, 0, 0, "Unknown"),
        (True, 0, 0, 0, "False"),
        (True, 0, 3, 0, "False"),
        (True, 1, 0, 0, "Unknown"),
        (True, 1, 1, 0, "True"),
        (True, 4, 3, 4, "Unknown"),
        (True, 4, 4, 4, "True"),
    ],
)
def test_the_condition_active(up: bool, desired: int, ready: int, least: int, active: str) -> None:
    pa = initialized(autoscaler(), "True" if up else "Unknown")
    seen = pods(desired, ready, desired, Bounds(least, initial=9))
    found = decide(pa, serverless(pa, ready=True), seen, now=T0)
    assert states(status(found))["Active"] == active


def test_requests_may_pass_the_activator_though_pods_are_ready() -> None:
    pa = initialized(autoscaler())
    sks = serverless(pa, ready=True)
    found = decide(pa, sks, pods(1, 1, 1), now=T0, through_activator=True)
    assert not any(isinstance(i, PatchSksMode) for i in found)
    assert states(status(found))["Ready"] == "True"


def test_times_change_with_their_condition_only() -> None:
    pa = autoscaler()
    first = status(decide(pa, serverless(pa, ready=False), pods(1, 0, 1), now=T0))
    pa["status"] = first
    second = status(decide(pa, serverless(pa, ready=True), pods(1, 0, 1), now=T1))
    times = {c["type"]: c["lastTransitionTime"] for c in second["conditions"]}
    assert times == {"Active": T0, "Ready": T0, "ScaleTargetInitialized": T0, "SKSReady": T1}


def test_a_service_of_somebody_else_is_left_alone_and_said() -> None:
    pa = initialized(autoscaler())
    sks = serverless(autoscaler(2), ready=True)
    sks["metadata"]["name"] = pa["metadata"]["name"]
    found = decide(pa, sks, pods(1, 1, 1), now=T0)
    assert len(found) == 1
    assert condition(status(found), "Ready")["reason"] == "NotOwned"


def test_another_class_and_one_that_is_being_deleted_are_not_touched() -> None:
    other = autoscaler()
    other["metadata"]["annotations"] = {}
    leaving = autoscaler()
    leaving["metadata"]["deletionTimestamp"] = T0
    for pa in (other, leaving):
        assert decide(pa, None, pods(1, 0, 5), now=T0) == []


@st.composite
def situations(draw: Any) -> tuple[Raw, Raw | None, Pods, bool]:
    pa = autoscaler()
    if draw(st.booleans()):
        pa = initialized(pa, draw(st.sampled_from(["True", "Unknown", "False"])))
    readiness = draw(st.sampled_from([None, True, False]))
    sks = serverless(pa, mode=draw(st.sampled_from(["Serve", "Proxy"])), ready=readiness)
    count = st.integers(0, 3)
    bounds = Bounds(draw(count), None, draw(count))
    seen = Pods(draw(count), draw(count), draw(count), bounds)
    return pa, draw(st.sampled_from([None, sks])), seen, draw(st.booleans())


@given(situations())
def test_deciding_again_changes_nothing(case: tuple[Raw, Raw | None, Pods, bool]) -> None:
    pa, sks, seen, through = case
    found = decide(pa, sks, seen, now=T0, through_activator=through)
    pa, sks, seen = apply(pa, sks, seen, found)
    assert decide(pa, sks, seen, now=T1, through_activator=through) == []


@given(situations())
def test_what_was_never_up_is_never_inactive(case: tuple[Raw, Raw | None, Pods, bool]) -> None:
    pa, sks, seen, through = case
    found = decide(pa, sks, seen, now=T0, through_activator=through)
    after, _, _ = apply(pa, sks, seen, found)
    if condition(after["status"], "ScaleTargetInitialized")["status"] != "True":
        assert condition(after["status"], "Ready")["status"] == "Unknown"
    else:
        was = condition(pa.get("status"), "ScaleTargetInitialized").get("status") == "True"
        assert was or seen.ready >= max(seen.bounds.least, seen.bounds.initial)
    assert not any(
        k.startswith("autoscaling.knative.dev")
        for i in found
        if isinstance(i, CreateSks)
        for k in i.body["metadata"].get("annotations", {})
    )
