"""The running gateway keeps to its OpenAPI file, whatever it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .gateway_kit import JOB, SMALL, GatewayKit, document, gateway

FILE = Path(__file__).parents[2] / "functions/gateway/openapi.yaml"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayKit]:
    folder = tmp_path_factory.mktemp("openapi")
    with gateway(folder, LIFL_POLL_CAP="0.05", LIFL_BODY_IDLE="2") as running:
        yield running


schemathesis.serializer.alias("application/vnd.safetensors", "application/octet-stream")
schema = schemathesis.openapi.from_path(FILE)


@schema.parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_fuzzed_requests_are_answered_as_described(
    case: schemathesis.Case, kit: GatewayKit
) -> None:
    if case.path_parameters and len(case.path_parameters.get("job", "")) % 2:
        case.path_parameters["job"] = JOB  # else nearly every request ends at "no such job"
    response = case.call(base_url=kit.url, timeout=20)
    case.validate_response(response, checks=CHECKS)
    if response.status_code != 503:
        case.validate_response(response, checks=[not_a_server_error])


def test_after_all_that_the_gateway_still_works(kit: GatewayKit) -> None:
    assert kit.post(document(SMALL), client="last")[0] == 202
    assert b"Traceback" not in kit.log.read_bytes()
