"""Ways in, and what is said where there is none."""

from __future__ import annotations

import pytest

from bench.compare.knative.kube import ClusterError
from bench.compare.knative.ways import Way, knative_way
from tests.unit.bench.compare.knative.doubles import FakeKube


def test_ways_in() -> None:
    way = Way("http://g.lifl.test", "192.0.2.7:31080")
    assert way.endpoint("http://g.lifl.test/v1/x") == (
        ("192.0.2.7", 31080),
        "g.lifl.test",
        "/v1/x",
    )
    plain = Way("http://192.0.2.1:8080")
    assert plain.endpoint("http://192.0.2.2:8080/v1/x")[0] == ("192.0.2.2", 8080)


@pytest.mark.parametrize("balancer", [True, False])
def test_knatives_way_is_the_first_gateway_by_kourier(balancer: bool) -> None:
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]} if balancer else {}}
    ports = [{"port": 443, "nodePort": 31443}, {"port": 80, "nodePort": 31080}]
    node = {"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}
    gateways = [{"status": {"url": f"http://gateway-{n}.lifl.test"}} for n in "ba"]
    kube = FakeKube(
        {
            ("-n", "lifl", "ksvc", "-l", "lifl.dev/gateway-of"): {"items": gateways},
            ("-n", "kourier-system", "service", "kourier"): {
                "status": status,
                "spec": {"ports": ports},
            },
            ("nodes",): {"items": [node]},
        }
    )
    expected = "192.0.2.9:80" if balancer else "192.0.2.1:31080"
    assert knative_way(kube, "lifl") == Way("http://gateway-a.lifl.test", expected)


def test_without_a_gateway_a_way_is_asked_for() -> None:
    kube = FakeKube({("-n", "lifl", "ksvc", "-l", "lifl.dev/gateway-of"): {"items": []}})
    with pytest.raises(ClusterError, match="--lifl-url"):
        knative_way(kube, "lifl")
