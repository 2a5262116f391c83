"""Round times of ready-made updates, by the way in and straight to the gateway's pod."""

from __future__ import annotations

import json
import time

import pytest

from tests.cluster.figures import Figures, spread
from tests.cluster.install import Installation, pod_ready
from tests.cluster.jobs import Entry, Job, entries, none_left
from tests.cluster.kube import capacity, kubectl, query, until

CLIENTS, ROUNDS = 8, 8
LARGE = 11_250_000
"""Elements of 45 MB."""
SLOTS = 20
ROOM = "2Gi"


def measured(lifl: Installation, name: str, elements: int, ways: list[Entry]) -> Job:
    spec = {"pool": {"slots": SLOTS}}
    job = Job(lifl, name, clients=CLIENTS, rounds=ROUNDS, elements=elements, spec=spec, ways=ways)
    return job.submit().start().finish(400.0)


def straight(lifl: Installation, node: str) -> list[Entry]:
    """Return the pod of a node's gateway: what is asked for is the same, the ingress is passed."""
    (pod,) = (p for p in lifl.pods("gateway") if pod_ready(p) and p["spec"]["nodeName"] == node)
    return [Entry(entries(lifl)[0].url, f"{pod['status']['podIP']}:8080")]


@pytest.mark.parametrize(("size", "elements"), [("1 KB", 240), ("45 MB", LARGE)])
def test_rounds_of_ready_made_updates(
    lifl: Installation, figures: Figures, size: str, elements: int
) -> None:
    nodes = sorted(p["spec"]["nodeName"] for p in lifl.pods("gateway") if pod_ready(p))
    one = {node: 20.0 if node == nodes[0] else 0.5 for node in nodes}
    with _room(lifl), capacity(one):
        until(none_left(lifl), "no aggregators' pods", 120.0)
        before = _restarts(lifl)
        job = measured(lifl, "through", elements, entries(lifl))
        _note(figures, lifl, f"{size}, the way in", job)
        if not lifl.settings.openfaas or lifl.platform != "openfaas":  # other paths than a pod's
            job = measured(lifl, "straight", elements, straight(lifl, nodes[0]))
            _note(figures, lifl, f"{size}, straight to the gateway's pod", job)
    assert _restarts(lifl) == before


def _restarts(lifl: Installation) -> dict[str, int]:
    """Return how often each pod's containers were started again."""
    return {
        p["metadata"]["name"]: sum(c["restartCount"] for c in p["status"]["containerStatuses"])
        for function in ("gateway", "coordinator")
        for p in lifl.pods(function)
        if pod_ready(p)
    }


def _note(figures: Figures, lifl: Installation, what: str, job: Job) -> None:
    """Keep the rounds but the first, which waits for pods."""
    figures.note(
        lifl.platform, f"round of {CLIENTS} clients, {what} (s)", spread(job.round_seconds()[1:])
    )
    figures.note(
        lifl.platform,
        f"upload, {CLIENTS} at once, {what} (s)",
        spread(job.upload_seconds[CLIENTS:]),
    )


class _room:
    """Gateways with memory for all slots, as docs/operations.md says they need; for a block."""

    def __init__(self, lifl: Installation) -> None:
        self._lifl = lifl

    def __enter__(self) -> None:
        on, ns = self._lifl, self._lifl.namespace
        if on.platform == "knative":
            template = query("-n", ns, "get", "configmap", "gateway-template")["data"]
            text = template["service.yaml"].replace("memory: 512Mi", f"memory: {ROOM}")
            patch = json.dumps({"data": {"service.yaml": text}})
            kubectl("-n", ns, "patch", "configmap", "gateway-template", "--type=merge", "-p", patch)
        else:
            name = "daemonset/gateway" if on.platform == "kubernetes" else "deploy/lifl-gateway"
            kubectl("-n", ns, "set", "resources", name, f"--limits=memory={ROOM}")
        until(self._has_room, "gateways with more memory", 180.0)
        until(on.is_ready, "everything to be ready", 120.0)
        time.sleep(3)

    def _has_room(self) -> bool:
        limits = [
            c["resources"]["limits"]["memory"]
            for p in filter(pod_ready, self._lifl.pods("gateway"))
            for c in p["spec"]["containers"]
            if "memory" in c.get("resources", {}).get("limits", {})
        ]
        return bool(limits) and set(limits) == {ROOM}

    def __exit__(self, *_: object) -> None:
        """It stays: the next size asks for the same, and the tests' own installation goes."""
