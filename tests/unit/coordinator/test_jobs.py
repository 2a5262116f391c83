from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from functions.coordinator.jobs import SCHEMA_FILE, parse
from functions.coordinator.problems import Refused
from functions.coordinator.strategies import FedAdam, FedAvg
from lifl.topology import Timing

FULL: dict[str, Any] = {
    "apiVersion": "lifl.dev/v1alpha1",
    "kind": "FederatedJob",
    "metadata": {"name": "digits"},
    "spec": {
        "rounds": 20,
        "model": {"path": "model.safetensors"},
        "clients": {
            "perRound": 10,
            "minimum": 8,
            "overProvision": 0.2,
            "selection": "random",
            "seed": 3,
            "names": ["c1", "c2"],
        },
        "deadlineSeconds": 60,
        "strategy": {"name": "fedadam", "lr": 0.1, "beta1": 0.8, "beta2": 0.9, "tau": 0.01},
        "update": "delta",
        "aggregation": {"fanIn": 4, "timing": "lazy"},
        "pool": {"slots": 32},
        "clientConfig": {"epochs": 2},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(FULL)
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return document


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(json.loads(SCHEMA_FILE.read_text()))


def test_a_full_job():
    spec = parse(FULL)
    assert (spec.name, spec.rules.rounds, spec.rules.deadline) == ("digits", 20, 60.0)
    selection = spec.rules.selection
    assert (selection.per_round, selection.minimum, selection.wanted) == (10, 8, 12)
    assert (selection.everyone, selection.seed) == (False, 3)
    assert spec.strategy == FedAdam(lr=0.1, beta1=0.8, beta2=0.9, tau=0.01)
    assert (spec.rules.update_type, spec.fan_in, spec.timing) == ("delta", 4, Timing.LAZY)
    assert (spec.slots, spec.names, spec.client_config) == (32, ("c1", "c2"), {"epochs": 2})


def test_the_least_a_job_says():
    document = {k: FULL[k] for k in ("apiVersion", "kind", "metadata")}
    spec = parse({**document, "spec": {"rounds": 1, "clients": {"perRound": 2}}})
    assert (spec.rules.selection.minimum, spec.rules.deadline) == (2, None)
    assert spec.strategy == FedAvg(lr=1.0)
    assert (spec.fan_in, spec.timing, spec.slots) == (None, Timing.EAGER, None)


@pytest.mark.parametrize(
    ("path", "value", "where", "says"),
    [
        ("kind", "Job", "kind", "FederatedJob"),
        ("apiVersion", "v1", "apiVersion", "lifl.dev/v1alpha1"),
        ("metadata.name", "Digits!", "metadata.name", "match"),
        ("metadata.name", "digits\n", "metadata.name", "DNS label"),
        ("spec.clients.names", ["c1", "c2\n"], "spec.clients.names.1", "not usable"),
        ("spec.model", {"configMap": {"name": "a"}}, "spec.model.configMap", "'key'"),
        ("spec.model", {"path": "a", "url": "b"}, "spec.model", "valid under each"),
        ("spec.rounds", 0, "spec.rounds", "minimum of 1"),
        ("spec.rounds", "many", "spec.rounds", "integer"),
        ("spec.rounds", ..., "spec", "'rounds' is a required property"),
        ("spec.clients", ..., "spec", "'clients' is a required property"),
        ("spec.clients.perRound", 2.5, "spec.clients.perRound", "integer"),
        ("spec.clients.minimum", 11, "spec.clients.minimum", "more than perRound"),
        ("spec.clients.overProvision", -1, "spec.clients.overProvision", "minimum"),
        ("spec.clients.selection", "best", "spec.clients.selection", "random"),
        ("spec.clients.names", ["a b"], "spec.clients.names.0", "match"),
        ("spec.deadlineSeconds", 0, "spec.deadlineSeconds", "0"),
        ("spec.strategy", {"name": "sgd"}, "spec.strategy.name", "fedavg"),
        ("spec.strategy", {"name": "fedavg", "beta1": 0.9}, "spec.strategy", "'beta1'"),
        ("spec.strategy", {"name": "fedyogi", "beta2": 1.0}, "spec.strategy.beta2", "1"),
        ("spec.update", "gradients", "spec.update", "weights"),
        ("spec.aggregation.fanIn", 0, "spec.aggregation.fanIn", "minimum"),
        ("spec.pool.slots", 4, "spec.pool.slots", "minimum of 8"),
        ("spec.roundz", 3, "spec", "'roundz'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(path, value, where, says):
    with pytest.raises(Refused) as e:
        parse(changed(path, value))
    assert (e.value.status, e.value.code, e.value.where) == (422, "invalid-job", where)
    assert says in e.value.detail


def test_a_minimum_below_the_goal_needs_a_deadline():
    with pytest.raises(Refused, match="deadlineSeconds"):
        parse(changed("spec.deadlineSeconds", None))


@pytest.mark.parametrize("document", [None, [], "text", 3, {}])
def test_anything_else_is_refused(document):
    with pytest.raises(Refused, match=r"the document|required"):
        parse(document)
