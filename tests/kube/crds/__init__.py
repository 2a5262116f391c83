"""Knative's kinds at an API server without Knative.

Why: what the controller owes Knative is checked by the API server itself: schemas, status
subresources, merge patches. It must not play Knative's controllers; tests do.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from controller.clients.api import Cluster
from controller.clients.errors import ApiError
from controller.clients.kinds import KNATIVE_SERVICE, POD_AUTOSCALER, SERVERLESS_SERVICE, Kind
from lifl.errors import LiflError

DEFINITION = Kind(
    "apiextensions.k8s.io/v1",
    "customresourcedefinitions",
    "CustomResourceDefinition",
    namespaced=False,
)
KINDS = {
    "podautoscalers": POD_AUTOSCALER,
    "serverlessservices": SERVERLESS_SERVICE,
    "services": KNATIVE_SERVICE,
}
WITHIN_S = 30.0


@contextlib.contextmanager
def installed(cluster: Cluster, *names: str) -> Iterator[None]:
    """Have the kinds of these files served inside the block, and gone with all objects after it."""
    bodies = {n: yaml.safe_load((Path(__file__).parent / f"{n}.yaml").read_text()) for n in names}
    for body in bodies.values():
        cluster.create(DEFINITION, body)
    try:
        for name in names:
            _until(lambda kind=KINDS[name]: _listed(cluster, kind))  # type: ignore[misc]
        yield
    finally:
        for body in bodies.values():
            cluster.delete(DEFINITION, body["metadata"]["name"])
        for body in bodies.values():
            name = body["metadata"]["name"]
            _until(lambda name=name: cluster.find(DEFINITION, name) is None)  # type: ignore[misc]


def _listed(cluster: Cluster, kind: Kind) -> bool:
    try:
        cluster.list(kind)
    except (ApiError, LiflError):
        return False
    return cluster.serves(kind)


def _until(condition: object) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
