"""The FederatedJob definition of deploy/crd/ accepts what the coordinator accepts, and no more.

It is held to what scripts/build-crd makes of functions/coordinator/job.schema.json, and to
the rules for structural schemas. Validation follows an API server: members that the schema
does not know, and nulls that it does not want, are pruned; then comes the schema, then its
CEL rules, of which this file reads the few forms that are in use. A real API server's word
is in tests/kube.
"""

from __future__ import annotations

import copy
import json
import re
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from controller.clients.kinds import FEDERATED_JOB
from controller.cluster import crd, federatedjob
from functions.coordinator.jobs import SCHEMA_FILE, parse
from functions.coordinator.problems import Refused

REPO = Path(__file__).resolve().parents[2]
FILE = REPO / "deploy/crd/federatedjobs.lifl.dev.yaml"
JOB_SCHEMA = json.loads(SCHEMA_FILE.read_text())
Json = Any

FULL: dict[str, Json] = {
    "apiVersion": "lifl.dev/v1alpha1",
    "kind": "FederatedJob",
    "metadata": {"name": "digits"},
    "spec": {
        "rounds": 20,
        "model": {"configMap": {"name": "models", "key": "digits.safetensors"}},
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
        "clientConfig": {"epochs": 2, "deep": {"list": [1, None, "x"]}},
    },
}
LEAST = {k: v for k, v in FULL.items() if k != "spec"} | {
    "spec": {"rounds": 1, "clients": {"perRound": 2}}
}


@pytest.fixture(scope="module")
def definition() -> dict[str, Json]:
    found: dict[str, Json] = yaml.safe_load(FILE.read_text())
    return found


def schema_of(definition: Mapping[str, Json]) -> dict[str, Json]:
    (version,) = definition["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


def nodes(schema: Mapping[str, Json], path: str = "") -> Iterator[tuple[str, Mapping[str, Json]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


# -- an API server's judgement ------------------------------------------------------


def plain(schema: Mapping[str, Json]) -> dict[str, Json]:
    """Return the JSON Schema of a structural one, its rules left out."""
    made = {k: v for k, v in schema.items() if not k.startswith("x-") and k != "nullable"}
    if schema.get("nullable"):
        made["type"] = [schema["type"], "null"]
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if made.pop(exclusive, False):
            made[exclusive] = made.pop(bound)
    if schema.get("x-kubernetes-list-type") == "set":
        made["uniqueItems"] = True
    if "properties" in schema:
        made["properties"] = {k: plain(v) for k, v in schema["properties"].items()}
    if "items" in schema:
        made["items"] = plain(schema["items"])
    return made


def prune(value: Json, schema: Mapping[str, Json]) -> Json:
    """Return ``value`` without the members that ``schema`` does not know, or lets be null."""
    if isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known = {k: s for k, s in schema.get("properties", {}).items() if k in value}
        kept = (k for k, s in known.items() if value[k] is not None or s.get("nullable"))
        return {k: prune(value[k], known[k]) for k in kept}
    if isinstance(value, list):
        return [prune(v, schema.get("items", {})) for v in value]
    return value


class Rule:
    """One CEL rule: has(), !, &&, ||, ==, <=, >=, in, and members of self and oldSelf."""

    def __init__(self, raw: Mapping[str, str]) -> None:
        self.message = raw["message"]
        self.transition = "oldSelf" in raw["rule"]
        text = re.sub(r"has\(((?:self|oldSelf)\.[\w.]+)\)", r"(get(\1) is not None)", raw["rule"])
        text = re.sub(r"\b(self|oldSelf)\.([\w.]+)", r'get(\1, "\2")', text)
        text = text.replace("get(get(", "(get(").replace("!(", " not (")
        text = re.sub(r"!(?!=)", " not ", text).replace("&&", " and ").replace("||", " or ")
        self._code = compile(text.strip(), "rule", "eval")

    def holds(self, self_: Json, old: Json = None) -> bool:
        def get(value: Json, path: str = "") -> Json:
            for name in path.split("."):
                value = value.get(name)
            return value

        return bool(eval(self._code, {"get": get, "self": self_, "oldSelf": old}))


def complaints(value: Json, schema: Mapping[str, Json], old: Json = None) -> Iterator[str]:
    """Yield the messages of the rules that do not hold in a valid, pruned value."""
    for raw in schema.get("x-kubernetes-validations", ()):
        rule = Rule(raw)
        if rule.transition and old is None:
            continue
        if not rule.holds(value, old):
            yield rule.message
    for name, inner in schema.get("properties", {}).items():
        if isinstance(value, dict) and value.get(name) is not None:
            before = None if old is None else old.get(name)
            yield from complaints(value[name], inner, before)


def admitted(document: Json, schema: Mapping[str, Json]) -> bool:
    """Whether an API server takes a document as a FederatedJob, pruned before."""
    if not isinstance(document, dict):
        return False
    if (document.get("apiVersion"), document.get("kind")) != (federatedjob.API, federatedjob.KIND):
        return False
    if not isinstance(document.get("metadata"), dict) or "name" not in document["metadata"]:
        return False
    if not Draft202012Validator(plain(schema)).is_valid(document):
        return False
    return not list(complaints(document, schema))


def accepted(document: Json) -> bool:
    """Whether the coordinator takes a document as a job."""
    try:
        parse(document)
    except Refused:
        return False
    return True


# -- the file -----------------------------------------------------------------------


def test_the_file_is_what_the_job_schema_makes(definition):
    made = runpy.run_path(str(REPO / "scripts/build-crd"))
    assert FILE.read_text() == made["text"]()
    assert definition == json.loads(json.dumps(crd.definition(JOB_SCHEMA)))


def test_it_is_a_definition(definition):
    kubernetes_validate.validate(definition, "1.36", strict=True)
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == f"{names['plural']}.{definition['spec']['group']}"
    assert names["shortNames"] == ["fj"]
    assert definition["spec"]["versions"][0]["subresources"] == {"status": {}}
    assert (FEDERATED_JOB.api, FEDERATED_JOB.plural, FEDERATED_JOB.kind) == (
        federatedjob.API,
        federatedjob.PLURAL,
        federatedjob.KIND,
    )


def test_the_schema_is_structural(definition):
    """https://kubernetes.io/docs: "Specifying a structural schema"."""
    schema = schema_of(definition)
    for path, node in nodes(schema):
        assert node.get("type"), path
        forbidden = {"additionalProperties", "const", "if", "then", "allOf", "not", "$ref"}
        assert not forbidden & node.keys(), path
        assert not node.get("uniqueItems"), path
        for choice in node.get("oneOf", ()):
            assert choice.keys() == {"required"}, path
    assert schema["properties"]["metadata"].keys() == {"type", "properties"}
    assert schema["properties"]["metadata"]["properties"].keys() == {"name"}


def test_columns_show_members_of_the_status(definition):
    (version,) = definition["spec"]["versions"]
    known = schema_of(definition)["properties"]["status"]["properties"]
    columns = {c["name"]: c for c in version["additionalPrinterColumns"]}
    for column in columns.values():
        place = column["jsonPath"].split(".")[1:]
        if place[0] == "status":
            assert known[place[1]]["type"] == column["type"]
    shown = [name for name, column in columns.items() if not column.get("priority")]
    assert shown == [
        "Round", "Updates", "Nodes", "Aggregators", "Accuracy", "Phase", "Age",
    ]  # fmt: skip


# -- the same jobs ------------------------------------------------------------------


def changed(path: str, value: Json, document: Json = FULL) -> Json:
    made = copy.deepcopy(document)
    *parents, last = path.split(".")
    place = made
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


GOOD = [
    FULL,
    LEAST,
    yaml.safe_load((REPO / "examples/digits/job.yaml").read_text()),
    changed("spec.deadlineSeconds", 0.5),
    changed("spec.deadlineSeconds", None, changed("spec.clients.minimum", 10)),
    changed("spec.clients.minimum", ..., changed("spec.deadlineSeconds", ...)),
    changed("spec.model", {"url": "http://models/digits"}),
    changed("spec.model", ...),
    changed("spec.strategy", {"name": "fedavg", "lr": 2}),
    changed("spec.strategy", {"name": "fedavgm", "momentum": 0}),
    changed("spec.strategy", {"name": "fedadagrad", "beta1": 0.5, "tau": 1}),
    changed("spec.clientConfig", {}),
    changed("spec.clients.names", []),
]
BAD = [
    changed("kind", "Job"),
    changed("apiVersion", "lifl.dev/v1"),
    changed("metadata", {}),
    changed("metadata.name", "Digits"),
    changed("metadata.name", "x" * 64),
    changed("spec", ...),
    changed("spec.rounds", 0),
    changed("spec.rounds", 2.5),
    changed("spec.rounds", True),
    changed("spec.rounds", None),
    changed("spec.clients", ...),
    changed("spec.clients.minimum", 11),
    changed("spec.clients.overProvision", -0.1),
    changed("spec.clients.selection", "best"),
    changed("spec.clients.names", ["a", "a"]),
    changed("spec.clients.names", ["a b"]),
    changed("spec.deadlineSeconds", 0),
    changed("spec.deadlineSeconds", None),
    changed("spec.deadlineSeconds", ...),
    changed("spec.model", {}),
    changed("spec.model", {"path": "a", "url": "b"}),
    changed("spec.model", {"configMap": {"name": "a"}}),
    changed("spec.strategy", {}),
    changed("spec.strategy", {"name": "sgd"}),
    changed("spec.strategy", {"name": "fedavg", "beta1": 0.9}),
    changed("spec.strategy", {"name": "fedavgm", "tau": 0.9}),
    changed("spec.strategy", {"name": "fedadagrad", "beta2": 0.9}),
    changed("spec.strategy", {"name": "fedadam", "momentum": 0.9}),
    changed("spec.strategy.beta2", 1),
    changed("spec.strategy.lr", 0),
    changed("spec.pool.slots", 7),
    changed("spec.clientConfig", []),
]


@pytest.mark.parametrize("document", GOOD)
def test_jobs_that_both_take(definition, document):
    assert accepted(document)
    assert admitted(document, schema_of(definition))
    assert prune(document, schema_of(definition)) == document


@pytest.mark.parametrize("document", BAD)
def test_jobs_that_both_refuse(definition, document):
    assert not accepted(document)
    assert not admitted(prune(document, schema_of(definition)), schema_of(definition))


def places(value: Json, path: tuple[Json, ...] = ()) -> Iterator[tuple[Json, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    for name, inner in items:
        yield from places(inner, (*path, name))


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.sampled_from([0.5, 1.0, 1.5, -0.5, 0.0, 70000, 1000001, 0.999]),
    st.sampled_from(["random", "all", "fedavg", "fedyogi", "fedavgm", "delta", "lazy", "c1", ""]),
    st.text(max_size=3),
    st.lists(st.sampled_from(["a", "b", "c d", 1]), max_size=3),
    st.dictionaries(st.sampled_from(["name", "lr", "tau", "path", "url", "x"]), st.just(1)),
)


@st.composite
def mutants(draw: st.DrawFn) -> Json:
    """Return a valid job with one to four members changed, added or taken away."""
    document = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        *parents, last = draw(st.sampled_from([p for p in places(document) if p]))
        place = document
        for name in parents:
            place = place[name]
        what = draw(st.sampled_from(["change", "remove", "add", "borrow"]))
        if what == "remove":
            del place[last]
        elif what == "add" and isinstance(place[last], dict):
            place[last][draw(st.sampled_from(["minimum", "momentum", "x", "names"]))] = draw(VALUES)
        elif what == "borrow":
            other = draw(st.sampled_from(GOOD))
            for name in (*parents, last):
                other = other.get(name, {}) if isinstance(other, dict) else {}
            place[last] = copy.deepcopy(other)
        else:
            place[last] = draw(VALUES)
    return document


@settings(max_examples=600, deadline=None)
@given(mutants())
def test_the_api_server_takes_what_the_coordinator_takes(document):
    schema = crd.definition(JOB_SCHEMA)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    pruned = prune(document, schema)
    assert admitted(pruned, schema) == accepted(pruned), pruned


# -- no changes ---------------------------------------------------------------------


@pytest.mark.parametrize("document", GOOD)
def test_what_stays_as_it_is_may_be_written_again(definition, document):
    assert not list(complaints(document, schema_of(definition), document))


@pytest.mark.parametrize("before", [FULL, LEAST])
@pytest.mark.parametrize("after", GOOD)
def test_a_spec_cannot_be_changed(definition, before, after):
    said = list(complaints(after, schema_of(definition), before))
    same = after["spec"] == before["spec"]
    assert said == ([] if same else ["a job cannot be changed; delete it and make another"])


def test_labels_and_status_may_change(definition):
    after = FULL | {"metadata": {"name": "digits", "labels": {"a": "b"}}, "status": {"phase": "x"}}
    assert not list(complaints(after, schema_of(definition), FULL))


# -- the maker ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("properties.spec.properties.rounds", {"type": "integer", "multipleOf": 2}),
        ("properties.spec.properties.rounds", {"type": ["integer", "string"]}),
        ("properties.spec.properties.rounds", {"type": "integer", "exclusiveMinimum": 1,
                                               "minimum": 0}),
        ("properties.spec.properties.pool.additionalProperties", True),
        ("properties.spec.properties.model.oneOf", [{"type": "string"}]),
        ("$defs.positive", {"type": "number", "not": {"const": 1}}),
    ],
)  # fmt: skip
def test_what_has_no_structural_form_is_an_error(path, value):
    with pytest.raises(ValueError, match=r"structural|both"):
        crd.definition(changed(path, value, JOB_SCHEMA))


def test_a_parameter_with_two_meanings_is_an_error():
    schema = copy.deepcopy(JOB_SCHEMA)
    branches = schema["properties"]["spec"]["properties"]["strategy"]["allOf"]
    branches[0]["then"]["properties"]["lr"] = {"type": "integer"}
    with pytest.raises(ValueError, match="two meanings"):
        crd.definition(schema)
