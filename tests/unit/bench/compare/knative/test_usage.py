"""What the kubelets' pages say, and what was spent between two of them."""

from __future__ import annotations

import pytest

from bench.compare.knative import kube, usage
from bench.compare.knative.usage import Key, Meter, Reading, parse, spent
from tests.unit.bench.compare.knative.doubles import FakeKube

NODE = "/api/v1/nodes/n1/proxy/metrics/resource"


def page(at: int, function: float, sidecar: float, pod: str = "leaf-0-abc") -> str:
    line = '{}_cpu_usage_seconds_total{{{}namespace="ns",pod="{}"}} {} {}'
    return "\n".join(
        [
            "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time",
            "# TYPE container_cpu_usage_seconds_total counter",
            line.format("container", 'container="queue-proxy",', pod, sidecar, at),
            line.format("container", 'container="user-container",', pod, function, at),
            line.format("pod", "", pod, function + sidecar + 0.5, at),
            'pod_cpu_usage_seconds_total{namespace="other",pod="x"} 7 1',
            f'pod_memory_working_set_bytes{{namespace="ns",pod="{pod}"}} 4.7e+07 {at}',
            "node_cpu_usage_seconds_total 1.5e+04 1",
        ]
    )


def cluster(*running: str) -> FakeKube:
    pods = [{"metadata": {"namespace": "ns", "name": name}} for name in running]
    pods.append({"metadata": {"namespace": "other", "name": "x"}})
    pods.append({"metadata": {"namespace": "ns", "name": "ended", "deletionTimestamp": "now"}})
    return FakeKube(
        {
            ("nodes",): {"items": [{"metadata": {"name": "n1"}}]},
            ("pods", "-A", "--field-selector=status.phase=Running"): {"items": pods},
        }
    )


def test_a_page_is_read() -> None:
    found = parse(page(1000, 2.0, 1.0), {"ns"})
    assert found == {
        Key("ns", "leaf-0-abc", "queue-proxy"): Reading(1.0, 1000),
        Key("ns", "leaf-0-abc", "user-container"): Reading(2.0, 1000),
        Key("ns", "leaf-0-abc"): Reading(3.5, 1000),
    }


def test_what_was_spent() -> None:
    before = parse(page(1, 2.0, 1.0), {"ns"})
    after = parse(page(2, 4.5, 2.0), {"ns"}) | parse(page(2, 1.0, 0.25, "leaf-1-new"), {"ns"})
    used = spent(before, after)
    assert used.by_namespace == {"ns": pytest.approx(3.5 + 1.75)}
    assert used.whole == pytest.approx(5.25)
    assert used.queue_proxy == pytest.approx(1.25)
    assert used.gone == ()


def test_a_container_that_was_started_again_and_a_pod_that_went() -> None:
    before = {Key("ns", "a"): Reading(9.0, 1), Key("ns", "b"): Reading(5.0, 1)}
    used = spent(before, {Key("ns", "a"): Reading(2.0, 2)})
    assert used.by_namespace == {"ns": 2.0}
    assert used.gone == ("b",)


def test_readings_are_awaited_until_all_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "POLL_SECONDS", 0.0)
    asked = cluster("leaf-0-abc", "new")
    ended, fresh = page(1, 9.0, 9.0, "ended"), page(2, 4.0, 2.0)
    pages = [page(1, 2.0, 1.0)] * 3 + [fresh, fresh + "\n" + page(2, 1, 1, "new")]
    asked.pages = {NODE: [p + "\n" + ended for p in pages]}
    found = Meter(asked, ["ns"]).fresh()
    assert found[Key("ns", "new")] == Reading(2.5, 2)
    assert found[Key("ns", "ended")] == Reading(18.5, 1)
    assert len(asked.pages[NODE]) == 1


def test_a_pod_that_ends_meanwhile_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "POLL_SECONDS", 0.0)
    asked = cluster("leaf-0-abc", "idle")
    idle = page(1, 1.0, 1.0, "idle")
    asked.pages = {NODE: [page(1, 2.0, 1.0) + "\n" + idle, page(2, 4.0, 2.0) + "\n" + idle]}
    meter = Meter(asked, ["ns"])
    answers = iter([meter._running(), {("ns", "leaf-0-abc")}])
    monkeypatch.setattr(meter, "_running", lambda: next(answers))
    assert meter.fresh()[Key("ns", "leaf-0-abc")] == Reading(6.5, 2)


def test_kubelets_that_never_read_again_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(usage, "FRESH_SECONDS", 0.05)
    asked = cluster("leaf-0-abc")
    asked.pages = {NODE: [page(1, 2.0, 1.0)]}
    with pytest.raises(kube.ClusterError, match="kubelets to read"):
        Meter(asked, ["ns"]).fresh()
