"""The OpenAPI file is valid and says exactly what the gateway serves.

That the running gateway keeps to it under fuzzing is held by
``tests/integration/test_gateway_openapi.py``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from jsonschema import Draft202012Validator

from functions.gateway.gateway import Gateway
from functions.gateway.polls import answer
from functions.gateway.problems import Refused, of
from functions.gateway.settings import GatewaySettings
from functions.gateway.views import JobView
from functions.gateway.web import create_app

FILE = Path(__file__).parents[2] / "functions/gateway/openapi.yaml"
INTERNAL = ("/internal/", "/_/")


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(FILE.read_text()))


def component(api: dict[str, Any], name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": api["components"]}
    Draft202012Validator.check_schema(api["components"]["schemas"][name])
    return Draft202012Validator(schema)


def test_every_public_route_is_described_and_no_other(api: dict[str, Any]) -> None:
    gateway = Gateway(GatewaySettings.from_env({"LIFL_GATEWAY_URL": "http://127.0.0.1:1"}))
    served = set()
    for rule in create_app(gateway).url_map.iter_rules():
        path = re.sub(r"<(\w+)>", r"{\1}", rule.rule).replace("{number}", "{round}")
        if not path.startswith(INTERNAL):
            served |= {(path, m.lower()) for m in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    methods = {"get", "post", "put", "delete"}
    described = {(p, m) for p, item in api["paths"].items() for m in item if m in methods}
    assert described == served


def test_operations_have_ids_and_summaries(api: dict[str, Any]) -> None:
    assert api["openapi"].startswith("3.1")
    methods = {"get", "head", "post", "put"}
    operations = [i[m] for i in api["paths"].values() for m in methods & i.keys()]
    assert len({o["operationId"] for o in operations}) == len(operations) > 10
    assert all(o["summary"] and o["tags"] and o["responses"] for o in operations)


def test_answers_fit_their_schemas(api: dict[str, Any]) -> None:
    raw = {"job": "digits", "round": 1, "assignment": 1, "version": 0, "phase": "committing"}
    view = JobView.from_json({**raw, "auth_key": "00", "deadline": 5.0})
    told = answer(view, "c1", node="node-0", url="http://127.0.0.1:1", now=9.0)
    component(api, "Work").validate(told)
    problem = of(Refused(409, "round-closed", "x", where="round")).document("/v1/jobs")
    component(api, "Problem").validate(yaml.safe_load(problem))
    component(api, "Status").validate({"status": "ok", "node": "node-0"})
    receipt = {"job": "digits", "round": 1, "client": "c1", "serial": 2, "duplicate": False}
    component(api, "Receipt").validate(receipt)
