"""Which Deployments are scaled, and between which bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.capacity import NodeCapacity
from controller.cluster.objects import Owner
from controller.cluster.targets import Bounds, Deployed, Target, Way, find, serving

from .scaled import autoscaler, deployed, deployment, initialized, pod, revision

SPACES = frozenset({"lifl", "openfaas-fn"})
FAAS = {"faas_function": "lifl-aggregator"}


def names(found: list[Target]) -> list[str]:
    return [t.deployment.name for t in found]


def test_aggregators_of_function_namespaces_are_scaled_and_nothing_else() -> None:
    raws = [
        deployment("plain"),
        deployment("elsewhere", namespace="default"),
        deployment("gateway", function="gateway"),
        deployment("other", function=""),
        deployment("lifl-aggregator", labels=FAAS, namespace="openfaas-fn"),
    ]
    found = find(map(Deployed.parse, raws), [], SPACES)
    assert names(found) == ["plain", "lifl-aggregator"]
    assert [t.deployment.way for t in found] == [Way.PLAIN, Way.OPENFAAS]


def test_revisions_of_other_classes_and_before_their_autoscaler_are_left_alone() -> None:
    kpa = autoscaler(2)
    kpa["metadata"]["annotations"]["autoscaling.knative.dev/class"] = "kpa.autoscaling.knative.dev"
    deployments = [deployed(revision(n)) for n in (1, 2, 3)]
    found = find(deployments, [autoscaler(1), kpa], SPACES)
    assert names(found) == ["aggregator-00001-deployment"]


@pytest.mark.parametrize(
    ("notes", "bounds"),
    [
        ({}, Bounds(0, None, 1)),
        ({"initial_scale": "0"}, Bounds(0, None, 0)),
        ({"min_scale": "2", "max_scale": "12", "initial_scale": "3"}, Bounds(2, 12, 3)),
        ({"minScale": "2", "maxScale": "0", "initialScale": "x"}, Bounds(2, None, 1)),
    ],
)
def test_knatives_bounds(notes: dict[str, str], bounds: Bounds) -> None:
    (target,) = find([deployed(revision())], [autoscaler(**notes)], SPACES)
    assert target.bounds == bounds
    assert not target.initialized


def test_a_minimum_does_not_hold_an_unreachable_revision() -> None:
    pa = autoscaler(reachability="Unreachable", min_scale="2", initial_scale="3")
    (target,) = find([deployed(revision())], [pa], SPACES)
    assert (target.reachable, target.bounds.least, target.clamp(0)) == (False, 0, 0)


def test_the_initial_scale_holds_until_the_revision_was_up() -> None:
    pa = autoscaler(initial_scale="3")
    (target,) = find([deployed(revision())], [pa], SPACES)
    assert target.clamp(0) == 3
    (target,) = find([deployed(revision())], [initialized(pa)], SPACES)
    assert target.clamp(0) == 0


@pytest.mark.parametrize(
    ("labels", "bounds"),
    [
        ({}, Bounds(1, None)),
        ({"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "5"}, Bounds(2, 5)),
        ({"lifl.dev/scale-to-zero": "true"}, Bounds(0, None)),
        ({"lifl.dev/scale-to-zero": "true", "com.openfaas.scale.min": "1"}, Bounds(0, None)),
        ({"lifl.dev/scale-to-zero": "true", "com.openfaas.scale.min": "2"}, Bounds(2, None)),
        ({"lifl.dev/scale-to-zero": "false"}, Bounds(1, None)),
    ],
)
def test_openfaas_bounds_are_on_the_template(labels: dict[str, str], bounds: Bounds) -> None:
    raw = deployment(labels=FAAS, template=FAAS | labels)
    (target,) = find([Deployed.parse(raw)], [], SPACES)
    assert target.bounds == bounds


def test_bounds_of_a_plain_deployment() -> None:
    raw = deployment(
        labels={"lifl.dev/max-scale": "4"},
        template={"lifl.dev/min-scale": "1", "lifl.dev/max-scale": "9"},
    )
    (target,) = find([Deployed.parse(raw)], [], SPACES)
    assert target.bounds == Bounds(1, 4)
    (target,) = find([deployed(labels={"lifl.dev/max-scale": "many"})], [], SPACES)
    assert target.bounds == Bounds()


def target(number: int, *, reachable: bool = True, up: bool = True) -> Target:
    return Target(deployed(revision(number)), Bounds(), None, reachable=reachable, initialized=up)


def test_seats_go_to_the_newest_that_is_up() -> None:
    old, new = target(1), target(2)
    assert serving([old, new]) is new
    coming = target(3, up=False)
    assert serving([old, new, coming]) is new
    assert serving([target(1, reachable=False), coming]) is coming
    assert serving([]) is None


def test_the_only_one_serves_though_it_failed() -> None:
    failed = target(2, reachable=False)
    assert serving([target(1, reachable=False), failed]) is failed


def test_a_pod_is_known_by_its_owner() -> None:
    of = deployed(deployment("aggregator"))
    assert of.owns(pod("a"))
    assert not of.owns(pod("a", of="aggregator-00001"))
    assert not of.owns(pod("a", owner=None))
    assert not of.owns(pod("a", namespace="other"))
    assert of.owns(pod("a", owner=Owner("Deployment", "aggregator", "uid-aggregator")))
    assert not of.owns(pod("a", owner=Owner("Job", "aggregator", "uid-job")))


@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.none() | st.integers(1, 9),
    st.integers(0, 9),
    st.booleans(),
)
def test_clamped_numbers_are_within_the_bounds(
    wanted: int, least: int, most: int | None, initial: int, up: bool
) -> None:
    bounds = Bounds(least, most, initial)
    found = bounds.clamp(wanted, initialized=up)
    lower = least if up else max(least, initial)
    assert found <= (most if most is not None else 99)
    assert found == wanted or found in (lower, most)
    assert bounds.clamp(found, initialized=up) == found


@pytest.mark.parametrize(
    ("notes", "updates"),
    [
        ({}, None),
        ({"lifl.dev/capacity": "12.5"}, 12.5),
        ({"lifl.dev/capacity": "0"}, None),
        ({"lifl.dev/capacity": "nan"}, None),
        ({"lifl.dev/capacity": "inf"}, None),
        ({"lifl.dev/capacity": "much"}, None),
    ],
)
def test_a_nodes_capacity(notes: dict[str, Any], updates: float | None) -> None:
    raw = {"metadata": {"name": "n1", "annotations": notes}}
    assert NodeCapacity.parse(raw) == NodeCapacity("n1", updates)
