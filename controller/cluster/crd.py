"""The CustomResourceDefinition of federated jobs, made from the job file's schema.

Why: one definition says what a job may ask for, and it is JSON Schema; an API server
wants a *structural* schema (no ``if``, ``const``, ``additionalProperties: false``), and
tells a person at once what is wrong. What a structural schema cannot say becomes rules
in CEL, which servers before 1.25 drop: there the coordinator refuses instead, and the
object's conditions say so. Members that no schema knows are pruned by the API server.

A keyword that is not known here is an error, so that none gets lost. It must not do I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.cluster import federatedjob

Schema = dict[str, Any]

_KEPT = frozenset(
    {"description", "minimum", "maximum", "pattern", "minLength", "maxLength", "required", "enum"}
)
_DROPPED = frozenset({"$schema", "$id", "$defs", "title"})
_RULES: dict[str, list[Schema]] = {
    "spec": [
        {
            "rule": "!has(self.clients.minimum) || self.clients.minimum >= self.clients.perRound"
            " || has(self.deadlineSeconds)",
            "message": "a minimum below perRound needs deadlineSeconds: "
            "without one no round ends early",
            "fieldPath": ".clients.minimum",
        },
    ],
    "spec.clients": [
        {
            "rule": "!has(self.minimum) || self.minimum <= self.perRound",
            "message": "minimum is more than perRound",
            "fieldPath": ".minimum",
        }
    ],
}


def definition(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the CustomResourceDefinition for the job schema ``job``; ValueError if unreadable."""
    schema = _structural(job, job.get("$defs", {}), "")
    schema["required"] = ["spec"]
    del schema["properties"]["metadata"]["required"]  # an API server wants it left unsaid
    spec = schema["properties"]["spec"]
    spec["x-kubernetes-validations"].insert(0, _unchanged(spec))
    for name in ("apiVersion", "kind"):
        schema["properties"][name] = {"type": "string"}
    schema["properties"]["status"] = _STATUS
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{federatedjob.PLURAL}.{federatedjob.GROUP}"},
        "spec": {
            "group": federatedjob.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": federatedjob.KIND,
                "plural": federatedjob.PLURAL,
                "singular": "federatedjob",
                "listKind": f"{federatedjob.KIND}List",
                "shortNames": ["fj"],
                "categories": ["lifl"],
            },
            "versions": [
                {
                    "name": federatedjob.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": _COLUMNS,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _unchanged(spec: Schema) -> Schema:
    """Return the rule that a spec stays as it is.

    Member by member: to CEL a null is absent, and two objects that both have it differ.
    """
    tests = []
    for name in spec["properties"]:
        same = f"self.{name} == oldSelf.{name}"
        if name not in spec["required"]:
            same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})"
        tests.append(same)
    message = "a job cannot be changed; delete it and make another"
    return {"rule": " && ".join(tests), "message": message}


def _structural(raw: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> Schema:
    """Return the structural form of a schema; ``path`` is its place, like "spec.clients"."""
    if "$ref" in raw:
        return _structural(defs[raw["$ref"].removeprefix("#/$defs/")], defs, path)
    made: Schema = {}
    for keyword, value in raw.items():
        if keyword == "properties":
            made[keyword] = {
                name: _structural(inner, defs, f"{path}.{name}".lstrip("."))
                for name, inner in value.items()
            }
        elif keyword == "items":
            made[keyword] = _structural(value, defs, f"{path}.*")
        elif keyword.startswith("exclusive"):
            bound = keyword.removeprefix("exclusive").lower()
            if bound in raw:
                raise ValueError(f"{path}: both {bound} and {keyword}")
            made |= {bound: value, keyword: True}
        elif keyword != "allOf":
            made |= _plain_keyword(keyword, value, path)
    if "enum" in made:
        made.setdefault("type", "string")
    rules = list(_RULES.get(path, ()))
    if "allOf" in raw:
        rules += _choices(raw["allOf"], made["properties"], defs, path)
    if rules:
        made["x-kubernetes-validations"] = rules
    if made.get("type") == "object" and "properties" not in made:
        made["x-kubernetes-preserve-unknown-fields"] = True
    return made


def _plain_keyword(keyword: str, value: Any, path: str) -> Schema:
    made: Schema
    match keyword, value:
        case "const", str():
            made = {"type": "string", "enum": [value]}
        case "type", [kind, "null"]:
            made = {"type": kind, "nullable": True}
        case "type", str():
            made = {"type": value}
        case "uniqueItems", True:
            made = {"x-kubernetes-list-type": "set"}
        case "oneOf", _ if all(choice.keys() == {"required"} for choice in value):
            made = {"oneOf": value}
        case _ if keyword in _KEPT:
            made = {keyword: value}
        case _ if keyword in _DROPPED or (keyword, value) == ("additionalProperties", False):
            made = {}
        case _:
            raise ValueError(f"{path}: no structural form of {keyword}: {value!r}")
    return made


def _choices(
    branches: list[Schema], properties: Schema, defs: Mapping[str, Any], path: str
) -> list[Schema]:
    """Turn "if the name is x then these properties" into all properties, and rules."""
    owners: dict[str, list[str]] = {}
    for branch in branches:
        ((discriminator, test),) = branch["if"]["properties"].items()
        names = test["enum"] if "enum" in test else [test["const"]]
        if branch.keys() != {"if", "then"} or branch["then"]["additionalProperties"] is not False:
            raise ValueError(f"{path}: a choice that cannot be read: {branch}")
        for name, inner in branch["then"]["properties"].items():
            if name == discriminator:
                continue
            made = _structural(inner, defs, f"{path}.{name}")
            if properties.setdefault(name, made) != made:
                raise ValueError(f"{path}.{name} has two meanings")
            owners.setdefault(name, []).extend(names)
    everything = set(properties[discriminator]["enum"])
    return [
        {
            "rule": f"!has(self.{name}) || self.{discriminator} in "
            f"[{', '.join(repr(owner) for owner in sorted(mine))}]",
            "message": f"{name} belongs to {', '.join(sorted(mine))}",
            "fieldPath": f".{name}",
        }
        for name, mine in sorted(owners.items())
        if set(mine) != everything
    ]


def _column(name: str, path: str, kind: str, description: str, **more: int) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": description, **more}


_COLUMNS = [
    _column("Round", ".status.round", "string", "The round it is in, of how many."),
    _column("Updates", ".status.updates", "string", "Updates of this round, of how many."),
    _column("Nodes", ".status.nodes", "integer", "Nodes whose aggregators sum this round."),
    _column("Aggregators", ".status.aggregators", "integer", "Aggregators of this round."),
    _column("Accuracy", ".status.accuracyPercent", "string", "Of the last model that was rated."),
    _column("Phase", ".status.phase", "string", "Where the job is."),
    _column("Version", ".status.version", "integer", "Of the present model.", priority=1),
    _column("Age", ".metadata.creationTimestamp", "date", "Since it was made."),
]


def _plain(kind: str, description: str, **more: Any) -> Schema:
    return {"type": kind, "description": description, **more}


_STATUS: Schema = {
    "type": "object",
    "properties": {
        "observedGeneration": _plain("integer", "The generation this speaks of.", format="int64"),
        "phase": _plain("string", f"One of {', '.join(federatedjob.Phase)}."),
        "round": _plain("string", "The round it is in, of how many: 3/20."),
        "updates": _plain("string", "Updates that were accepted this round, of how many: 7/10."),
        "attempt": _plain("integer", "1 unless the round is tried again."),
        "nodes": _plain("integer", "Nodes whose aggregators sum this round."),
        "aggregators": _plain("integer", "Aggregators of this round."),
        "levels": _plain("integer", "Levels of their tree."),
        "version": _plain("integer", "The version of the present model."),
        "accuracy": _plain("number", "Of the last version that was rated, 0 to 1."),
        "accuracyPercent": _plain("string", "The same for people."),
        "secretName": _plain("string", "The Secret with the job's key, auth_key."),
        "startTime": _plain("string", "When the job had its model.", format="date-time"),
        "completionTime": _plain("string", "When it was over.", format="date-time"),
        "conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                "properties": {
                    "type": _plain("string", f"One of {', '.join(federatedjob.CONDITIONS)}."),
                    "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "reason": {"type": "string"},
                    "message": {"type": "string"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                },
            },
        },
    },
}
