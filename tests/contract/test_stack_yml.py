"""stack.yml is what faas-cli and an OpenFaaS cluster take.

The schema is written from openfaas/go-sdk; see schemas/README.md. The limits of the
Community Edition are those of openfaas/faas-netes 0.18 (pkg/handlers).
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from jsonschema import Draft202012Validator, ValidationError

from functions.aggregator import web as aggregator_web
from functions.aggregator.settings import AggregatorSettings
from functions.coordinator import web as coordinator_web
from functions.gateway import web as gateway_web
from lifl.settings import FunctionSettings

FUNCTIONS = ("lifl-gateway", "lifl-coordinator", "lifl-aggregator")
Stack = dict[str, Any]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads((Path(__file__).parent / "schemas" / "openfaas-stack-1.0.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_is_a_stack_file_of_version_1_0(validator: Draft202012Validator, stack: Stack) -> None:
    validator.validate(stack)
    assert sorted(stack["functions"]) == sorted(FUNCTIONS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.update(version="2.0"),
        lambda s: s["provider"].update(name="faas"),
        lambda s: s["functions"].update(Lifl_Gateway=s["functions"]["lifl-gateway"]),
        lambda s: s["functions"]["lifl-gateway"].update(volumes=[]),
        lambda s: s["functions"]["lifl-gateway"]["environment"].update(LIFL_AUTH=True),
        lambda s: s["functions"]["lifl-gateway"].update(build_args=["A=b"]),
        lambda s: s["functions"]["lifl-gateway"].pop("image"),
        lambda s: s["configuration"].update(copy="lifl"),
    ],
    ids=["version", "provider", "name", "key", "type", "build_args", "image", "copy"],
)
def test_the_schema_refuses(
    validator: Draft202012Validator, stack: Stack, spoil: Callable[[Stack], object]
) -> None:
    spoilt = copy.deepcopy(stack)
    spoil(spoilt)
    with pytest.raises(ValidationError):
        validator.validate(spoilt)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_handler_is_the_function_s_folder(stack: Stack, repo: Path, name: str) -> None:
    function = stack["functions"][name]
    assert function["lang"] == "dockerfile"
    assert function["handler"] == f"./functions/{name.removeprefix('lifl-')}"
    assert (repo / function["handler"] / "Dockerfile").is_file()


def test_faas_cli_finds_the_template_without_a_network(repo: Path) -> None:
    assert (repo / "template/dockerfile/template.yml").read_text() == "language: dockerfile\n"


def test_images_carry_the_project_s_version(stack: Stack, repo: Path) -> None:
    version = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["version"]
    for name in FUNCTIONS:
        image = stack["functions"][name]["image"]
        assert image.endswith(f"/{name.removeprefix('lifl-')}:{version}")


def test_what_the_community_edition_allows(stack: Stack) -> None:
    for function in stack["functions"].values():
        assert "com.openfaas.scale.zero" not in function["labels"]
        assert 1 <= int(function["labels"]["com.openfaas.scale.min"]) <= 5
        assert int(function["labels"].get("com.openfaas.scale.max", "5")) <= 5


def test_secrets_come_as_files_and_only_where_needed(stack: Stack) -> None:
    for name in FUNCTIONS:
        function = stack["functions"][name]
        secrets, environment = function.get("secrets", []), function["environment"]
        assert not {"LIFL_PLATFORM_SECRET", "LIFL_STATE_PASSWORD"} & set(environment)
        named = {v for k, v in environment.items() if k.endswith("_FILE")}
        assert named == {f"/var/openfaas/secrets/{secret}" for secret in secrets}
        if name == "lifl-aggregator":
            assert not secrets
        else:
            path = environment["LIFL_PLATFORM_SECRET_FILE"]
            assert path == "/var/openfaas/secrets/lifl-platform"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_variable_is_one_the_function_reads(stack: Stack, repo: Path, name: str) -> None:
    folder = repo / "functions" / name.removeprefix("lifl-")
    text = "".join(p.read_text() for p in (*folder.rglob("*.py"), *repo.glob("lifl/*.py")))
    for variable in stack["functions"][name]["environment"]:
        assert f'"{variable.removesuffix("_FILE")}"' in text, variable


def test_the_label_alone_makes_a_pod_ours(stack: Stack) -> None:
    for name in FUNCTIONS:
        labels = stack["functions"][name]["labels"]
        ours = {k: v for k, v in labels.items() if k.startswith("lifl.dev/")}
        assert ours == {"lifl.dev/function": name.removeprefix("lifl-")}


def test_there_are_as_many_gateways_as_the_controller_wants(stack: Stack) -> None:
    labels = stack["functions"]["lifl-gateway"]["labels"]
    assert "com.openfaas.scale.max" not in labels, "it would bound the number of nodes"


def test_urls_name_what_is_there(stack: Stack, objects: dict[str, list[Stack]]) -> None:
    gateway = stack["functions"]["lifl-gateway"]["environment"]
    coordinator = "http://lifl-coordinator.openfaas-fn.svc.cluster.local:8080"
    assert gateway["LIFL_COORDINATOR_URL"] == coordinator
    assert gateway["LIFL_PUBLIC_URL"] == ""
    assert "LIFL_GATEWAY_URL" not in gateway, "the webhook says it"
    (controller,) = (o for o in objects["deploy/openfaas"] if o["kind"] == "Deployment")
    (container,) = controller["spec"]["template"]["spec"]["containers"]
    assert {"name": "LIFL_COORDINATOR_URL", "value": coordinator} in container["env"]
    state = stack["functions"]["lifl-coordinator"]["environment"]["LIFL_STATE_URL"]
    assert state == "redis://redis.openfaas-fn.svc.cluster.local:6379/0"
    assert any(
        (o["kind"], o["metadata"]["name"]) == ("Service", "redis") for o in objects["openfaas"]
    )


def test_functions_answer_where_faas_netes_probes() -> None:
    """pkg/k8s/probes.go asks for this path and knows no other."""
    settings = SimpleNamespace(function=FunctionSettings.from_env({}))
    gateway: Any = SimpleNamespace(node="node-0", settings=settings)
    coordinator = MagicMock()
    coordinator.settings.function.platform_secret = b"k" * 32
    apps = {
        "aggregator": aggregator_web.create_app(AggregatorSettings.from_env({}), None),
        "coordinator": coordinator_web.create_app(coordinator),
        "gateway": gateway_web.create_app(gateway),
    }
    for name, app in apps.items():
        assert app.test_client().get("/_/health").status_code == 200, name
