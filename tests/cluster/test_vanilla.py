"""Vanilla Knative beside LIFL: the comparison's side on this cluster, a round or two of each.

What it measures is `python -m bench.compare.knative`'s to tell (docs/benchmarks.md); here it has to
work: every update in the mean once, through the Broker, and nothing left afterwards.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.compare.knative.__main__ import main
from tests.cluster.install import Installation
from tests.cluster.kube import kubectl
from tests.cluster.settings import Settings

NAMESPACE = "lifl-vanilla-test"
KILOBYTES = 400


@pytest.fixture
def eventing(settings: Settings) -> None:
    if "eventing.knative.dev/v1" not in kubectl("api-versions").split():
        pytest.skip("this cluster has no Knative Eventing, which vanilla Knative is played on")


def played(out: Path, settings: Settings, *arguments: str) -> dict[str, object]:
    """Run the command and return its one workload."""
    image = ("--image", f"{settings.registry}/aggregator:{settings.tag}") if settings.tag else ()
    common = ("--models", f"{KILOBYTES}kb", "--clients", "5", "--turns", "1", "--out", str(out))
    assert main(["--namespace", NAMESPACE, *image, *common, *arguments]) == 0
    (workload,) = json.loads((out / "rounds.json").read_text())["workloads"]
    found: dict[str, object] = workload["sides"]
    return found


@pytest.mark.usefixtures("eventing")
def test_rounds_through_a_broker(settings: Settings, tmp_path: Path) -> None:
    sides = played(tmp_path, settings, "--sides", "knative", "--rounds", "3")
    (block,) = sides["knative"]["blocks"]  # type: ignore[index]
    assert [r["updates"] for r in block["rounds"]] == [5, 5, 5]
    assert [r["created"] for r in block["rounds"]] == [0, 0, 0]
    assert block["cpu"]["by_namespace"][NAMESPACE] > 0
    assert block["cpu"]["queue_proxy"] > 0
    assert kubectl("get", "namespace", NAMESPACE, "--ignore-not-found") == ""


@pytest.mark.usefixtures("eventing")
def test_a_round_from_no_pod(settings: Settings, tmp_path: Path) -> None:
    sides = played(tmp_path, settings, "--sides", "knative-zero", "--rounds", "1", "--warm", "0")
    (block,) = sides["knative-zero"]["blocks"]  # type: ignore[index]
    assert block["rounds"][0]["created"] == 4  # three leaves of five updates, and the top


@pytest.mark.platforms("knative")
def test_rounds_on_lifl(lifl: Installation, settings: Settings, tmp_path: Path) -> None:
    sides = played(tmp_path, settings, "--sides", "lifl", "--rounds", "2")
    (block,) = sides["lifl"]["blocks"]  # type: ignore[index]
    assert [r["updates"] for r in block["rounds"]] == [5, 5]
    assert block["cpu"]["by_namespace"][lifl.namespace] > 0
