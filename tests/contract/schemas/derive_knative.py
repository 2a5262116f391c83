"""Make knative-service-v1.json out of Knative Serving's own CustomResourceDefinition.

Why: the manifests are checked against what a cluster enforces, not against our
reading of it. The definition's prose is left out; two of its meanings are kept
in a form that a validator can use:

* a field that Knative does not know is refused (``additionalProperties: false``);
* a field behind a feature flag carries the flag's key as ``x-feature``.

    python derive_knative.py serving/config/core/300-resources/service.yaml v1.23.0
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

_FLAG = re.compile(r"feature flag - (kubernetes\.[a-z-]+)")
_KEPT = ("type", "enum", "pattern", "required", "minimum", "maximum", "anyOf", "allOf")


def derive(node: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of one node of the definition."""
    out = {key: node[key] for key in _KEPT if key in node}
    flag = _FLAG.search(node.get("description", ""))
    if flag:
        out["x-feature"] = flag.group(1)
    if "anyOf" in node:
        out.pop("type", None)
    if "properties" in node:
        out["properties"] = {k: derive(v) for k, v in node["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            out["additionalProperties"] = False
    elif isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = derive(node["additionalProperties"])
    if "items" in node:
        out["items"] = derive(node["items"])
    return out


def main(definition: str, version: str) -> None:
    """Print the schema."""
    crd = yaml.safe_load(Path(definition).read_text())
    (v1,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = derive(v1["schema"]["openAPIV3Schema"])
    schema["properties"]["apiVersion"] = {"const": "serving.knative.dev/v1"}
    schema["properties"]["kind"] = {"const": "Service"}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Knative Service, Knative Serving {version}",
    }
    json.dump(head | schema, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
