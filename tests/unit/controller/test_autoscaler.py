"""The autoscaler's loop against an API server that only remembers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from controller.autoscaler import Autoscaler
from controller.autoscaler_metrics import AutoscalerMetrics
from controller.clients.activator import Activator
from controller.clients.api import Cluster
from controller.clients.errors import Forbidden, NotFound
from controller.clients.kinds import (
    DEPLOYMENT,
    POD,
    POD_AUTOSCALER,
    SERVERLESS_SERVICE,
    Kind,
)
from controller.cluster import seats
from controller.cluster.objects import PodView
from controller.cluster.targets import Deployed
from controller.platform import ClusterPlatform
from lifl.platform.api import Aggregator

from .cluster.scaled import Raw, autoscaler, deployment, initialized, pod, revision, serverless

KEEP = 30.0


class Server:
    """Objects by kind and name, written to as patches say; pods are views."""

    def __init__(self) -> None:
        self.objects: dict[tuple[Kind, str], Raw] = {}
        self.pods: dict[str, PodView] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.events: list[tuple[str, str]] = []
        self.version = 100
        self.knative = False
        self.refuses: Exception | None = None
        self.hidden: dict[tuple[Kind, str], Raw] = {}

    def add(self, kind: Kind, raw: Raw) -> None:
        self.objects[kind, raw["metadata"]["name"]] = raw

    def serves(self, kind: Kind) -> bool:
        return self.knative

    def list(self, kind: Kind, *_: Any, **__: Any) -> tuple[list[Raw], str]:
        return self.of(kind), "0"

    def watch(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("tests hand the objects over")

    def of(self, kind: Kind) -> list[Raw]:
        """Return what the caches show: ``hidden`` objects are seen as they were."""
        return [self.hidden.get(key, raw) for key, raw in self.objects.items() if key[0] is kind]

    def _bump(self, raw: Raw) -> Raw:
        self.version += 1
        raw["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(raw)

    def create(self, kind: Kind, body: Mapping[str, Any], namespace: str) -> Raw:
        raw = copy.deepcopy(dict(body))
        raw["metadata"] |= {"uid": "made", "generation": 1}
        self.add(kind, raw)
        self.calls.append(("create", raw["metadata"]["name"], kind.kind))
        return self._bump(raw)

    def patch(
        self, kind: Kind, name: str, body: Raw, namespace: str, *, subresource: str = ""
    ) -> Raw:
        if self.refuses is not None:
            raise self.refuses
        self.calls.append((f"patch {subresource}".strip(), name, body))
        if kind is POD:
            if name not in self.pods:
                raise NotFound("gone", 404)
            cost = body["metadata"]["annotations"]
            (value,) = cost.values()
            self.pods[name] = replace(self.pods[name], deletion_cost=int(value or 0))
            return {}
        raw = self.objects[kind, name]
        for part, change in body.items():
            raw[part] = {**raw.get(part, {}), **change}
        return self._bump(raw)

    def delete(self, kind: Kind, name: str, namespace: str, *, uid: str) -> None:
        self.calls.append(("delete", name, uid))
        self.pods.pop(name, None)

    def event(self, about: Raw, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append((reason, message))


class FakeActivator:
    def __init__(self) -> None:
        self.watched = False
        self.asked: frozenset[tuple[str, str]] = frozenset()

    def watch(self, wanted: bool) -> None:
        self.watched = wanted

    def asked_for(self) -> frozenset[tuple[str, str]]:
        return self.asked if self.watched else frozenset()


class Rig:
    def __init__(self) -> None:
        self.now = 1000.0
        self.server = Server()
        self.activator = FakeActivator()
        self.leading = True
        self.platform = ClusterPlatform(
            lambda: list(self.server.pods.values()), clock=lambda: self.now
        )
        self.registry = CollectorRegistry()
        self.autoscaler = self.fresh()

    def fresh(self) -> Autoscaler:
        made = Autoscaler(
            cast(Cluster, self.server),
            self.platform,
            deployments=lambda: [Deployed.parse(d) for d in self.server.of(DEPLOYMENT)],
            pods=lambda: list(self.server.pods.values()),
            namespaces=lambda: frozenset({"lifl"}),
            activator=cast(Activator, self.activator),
            metrics=AutoscalerMetrics(CollectorRegistry()),
            keep_seconds=KEEP,
            leading=lambda: self.leading,
            clock=lambda: self.now,
        )
        # Threads have no place here: what caches would hold is handed over.
        knative = made._knative
        knative._caches = {k: Handed(self.server, k) for k in (POD_AUTOSCALER, SERVERLESS_SERVICE)}  # type: ignore[misc]
        return made

    def known(self) -> None:
        """The loop has looked."""
        self.platform.running()
        self.platform.running()

    def want(self, *numbers: int) -> None:
        for k in numbers:
            self.platform.start(Aggregator(f"j-agg-{k}", "j", "n1"), 0)

    def replicas(self, name: str = "aggregator") -> int:
        return int(self.server.objects[DEPLOYMENT, name]["spec"]["replicas"])

    def follow(self, name: str = "aggregator") -> None:
        """Make and seat the pods that a Deployment asks for, and end those that are marked."""
        of = Deployed.parse(self.server.objects[DEPLOYMENT, name])
        own = [p for p in self.server.pods.values() if of.owns(p)]
        own.sort(key=lambda p: (p.ready, p.deletion_cost))
        for spare in own[: max(0, len(own) - of.replicas)]:
            del self.server.pods[spare.name]
        for _ in range(of.replicas - len(own)):
            free = seats.open_seats(self.platform.wanted() or (), self.server.pods.values())
            seat = free[0] if free else Aggregator("", "", "n1")
            self.server.version += 1
            made = f"{name}-{self.server.version}"
            known = pod(made, seat.name, job=seat.job, node=seat.node, of=name)
            self.server.pods[made] = replace(known, created=float(self.server.version))
        count = sum(of.owns(p) for p in self.server.pods.values())
        self.server.objects[DEPLOYMENT, name]["status"] = {"readyReplicas": count}

    def settle(self, name: str = "aggregator") -> None:
        """Look and follow until nothing changes; it must come to rest."""
        for _ in range(6):
            before = len(self.server.calls)
            self.autoscaler.step()
            self.follow(name)
            if len(self.server.calls) == before:
                return
        raise AssertionError(f"it does not come to rest: {self.server.calls[-6:]}")


class Handed:
    """What a cache of a kind would hold."""

    def __init__(self, server: Server, kind: Kind) -> None:
        self._server, self._kind = server, kind

    def wait(self, timeout: float) -> bool:
        return True

    def values(self) -> list[Raw]:
        return copy.deepcopy(self._server.of(self._kind))

    def stop(self) -> None:
        pass


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.platform.close()


def plain(rig: Rig, **changes: Any) -> None:
    rig.server.add(DEPLOYMENT, deployment(**changes))


def test_seats_bring_pods_and_stopped_seats_take_theirs_away(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.settle()
    assert rig.replicas() == 0
    rig.want(0, 1, 2)
    rig.settle()
    assert rig.replicas() == 3
    assert sorted(p.seat for p in rig.server.pods.values()) == ["j-agg-0", "j-agg-1", "j-agg-2"]
    rig.platform.stop(["j-agg-1"])
    rig.settle()
    assert sorted(p.seat for p in rig.server.pods.values()) == ["j-agg-0", "j-agg-2"]
    assert [e[0] for e in rig.server.events] == ["ScaledUp", "ScaledDown"]
    assert "3 by job j" in rig.server.events[0][1]


def test_one_goes_while_another_comes(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.want(0, 1)
    rig.settle()
    rig.platform.stop(["j-agg-0"])
    rig.want(7)
    rig.settle()
    assert rig.replicas() == 2
    assert sorted(p.seat for p in rig.server.pods.values()) == ["j-agg-1", "j-agg-7"]
    assert [c[0] for c in rig.server.calls].count("delete") == 1


def test_nothing_goes_while_seats_are_not_known(rig: Rig) -> None:
    plain(rig, replicas=3)
    for known in (pod("p0", "j-agg-0"), pod("p1", node=""), pod("p2", node="")):
        rig.server.pods[known.name] = known
    rig.autoscaler.step()
    assert (rig.replicas(), rig.server.calls) == (3, [])
    rig.known()
    rig.settle()
    assert rig.replicas() == 3, "what was there before is held for a while"
    rig.now += KEEP + 1
    rig.settle()
    assert rig.replicas() == 1


def test_a_number_that_somebody_else_set_is_held_for_a_while(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.want(0)
    rig.settle()
    rig.server.patch(DEPLOYMENT, "aggregator", {"spec": {"replicas": 2}}, "lifl")
    rig.follow()
    rig.settle()
    assert rig.replicas() == 2
    rig.now += KEEP - 1
    rig.settle()
    assert rig.replicas() == 2
    rig.now += 2
    rig.settle()
    assert rig.replicas() == 1
    assert [p.seat for p in rig.server.pods.values()] == ["j-agg-0"]


def test_what_was_scaled_and_is_not_seen_yet_is_not_scaled_again(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.autoscaler.step()
    key = (DEPLOYMENT, "aggregator")
    rig.server.hidden[key] = copy.deepcopy(rig.server.objects[key])
    rig.want(0, 1)
    rig.autoscaler.step()
    rig.autoscaler.step()
    assert len(rig.server.calls) == 1
    del rig.server.hidden[key]
    rig.autoscaler.step()
    assert len(rig.server.calls) == 1


def test_bounds_are_followed_at_once(rig: Rig) -> None:
    plain(rig, labels={"lifl.dev/max-scale": "2"})
    rig.known()
    rig.want(0, 1, 2)
    rig.settle()
    assert rig.replicas() == 2
    assert [r for r, _ in rig.server.events] == ["ScaledUp", "ScaleLimited"] or [
        r for r, _ in rig.server.events
    ] == ["ScaleLimited", "ScaledUp"]
    rig.server.objects[DEPLOYMENT, "aggregator"]["metadata"]["labels"] = {
        "lifl.dev/min-scale": "12"
    }
    rig.settle()
    assert rig.replicas() == 12


def test_a_seat_that_does_not_come_to_be_is_given_up_and_said(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.want(0)
    rig.autoscaler.step()
    rig.now += 61
    rig.autoscaler.step()
    assert rig.platform.running() == []
    assert "SeatGivenUp" in [r for r, _ in rig.server.events]
    assert rig.replicas() == 0


def test_only_the_leader_acts(rig: Rig) -> None:
    plain(rig)
    rig.known()
    rig.want(0)
    rig.leading = False
    rig.autoscaler.step()
    assert rig.server.calls == []


def test_what_is_refused_is_tried_again_and_does_not_hold_up_others(rig: Rig) -> None:
    plain(rig)
    old = deployment("beside", labels={"lifl.dev/min-scale": "1"}, created="2026-11-26T09:00:00Z")
    rig.server.add(DEPLOYMENT, old)
    rig.known()
    rig.want(0)
    rig.server.refuses = Forbidden("you may not", 403)
    rig.autoscaler.step()
    assert rig.replicas() == 0
    rig.server.refuses = None
    rig.autoscaler.step()
    assert (rig.replicas("aggregator"), rig.replicas("beside")) == (1, 1)


# -- Knative -------------------------------------------------------------------------------


def knative(rig: Rig, number: int = 1, *, up: bool = True, **notes: str) -> str:
    pa = autoscaler(number, **notes)
    rig.server.add(POD_AUTOSCALER, initialized(pa) if up else pa)
    raw = revision(number)
    rig.server.add(DEPLOYMENT, raw)
    rig.server.add(SERVERLESS_SERVICE, serverless(pa, ready=True))
    return str(raw["metadata"]["name"])


def conditions(rig: Rig, number: int = 1) -> dict[str, str]:
    pa = rig.server.objects[POD_AUTOSCALER, f"aggregator-{number:05d}"]
    return {c["type"]: c["status"] for c in pa["status"]["conditions"]}


def mode(rig: Rig, number: int = 1) -> str:
    return str(rig.server.objects[SERVERLESS_SERVICE, f"aggregator-{number:05d}"]["spec"]["mode"])


def test_a_revision_from_zero_to_its_seats_and_back(rig: Rig) -> None:
    name = knative(rig)
    rig.known()
    rig.settle(name)
    assert (rig.replicas(name), conditions(rig)["Active"], mode(rig)) == (0, "False", "Proxy")
    rig.want(0, 1)
    rig.settle(name)
    assert (rig.replicas(name), conditions(rig)["Active"], mode(rig)) == (2, "True", "Serve")
    rig.platform.stop(["j-agg-0", "j-agg-1"])
    rig.settle(name)
    assert (rig.replicas(name), conditions(rig)["Active"], mode(rig)) == (0, "False", "Proxy")


def test_a_serverless_service_is_made_once(rig: Rig) -> None:
    name = knative(rig, up=False)
    key = (SERVERLESS_SERVICE, "aggregator-00001")
    del rig.server.objects[key]
    rig.known()
    rig.autoscaler.step()
    made = rig.server.objects.pop(key)  # not seen yet
    rig.autoscaler.step()
    assert [c[0] for c in rig.server.calls].count("create") == 1
    rig.server.objects[key] = made | {"status": serverless(autoscaler(), ready=True)["status"]}
    made["metadata"]["resourceVersion"] = "999"
    rig.settle(name)
    assert set(conditions(rig).values()) == {"True"}


def test_a_request_at_zero_gets_a_pod_until_there_are_none_for_a_while(rig: Rig) -> None:
    name = knative(rig)
    rig.known()
    rig.settle(name)
    assert rig.activator.watched
    rig.activator.asked = frozenset({("lifl", "aggregator-00001")})
    rig.settle(name)
    assert rig.replicas(name) == 1
    assert mode(rig) == "Proxy", "the activator must go on counting"
    assert conditions(rig)["Active"] == "True"
    rig.now += KEEP * 3
    rig.settle(name)
    assert rig.replicas(name) == 1, "requests go on"
    rig.activator.asked = frozenset()
    rig.settle(name)
    assert rig.replicas(name) == 1
    rig.now += KEEP + 1
    rig.settle(name)
    assert rig.replicas(name) == 0


def test_the_activator_is_not_asked_while_seats_have_pods(rig: Rig) -> None:
    name = knative(rig)
    rig.known()
    rig.want(0)
    rig.settle(name)
    assert not rig.activator.watched


def test_an_old_revision_goes_when_the_new_one_is_routed_to(rig: Rig) -> None:
    old = knative(rig, 1)
    rig.known()
    rig.want(0, 1)
    rig.settle(old)
    new = knative(rig, 2, up=False)
    rig.settle(new)
    assert (rig.replicas(old), rig.replicas(new)) == (2, 1), "it must come up once"
    assert conditions(rig, 2)["ScaleTargetInitialized"] == "True"
    pa = rig.server.objects[POD_AUTOSCALER, "aggregator-00001"]
    pa["spec"]["reachability"] = "Unreachable"
    rig.autoscaler.step()
    assert rig.replicas(old) == 0
    rig.follow(old)
    rig.now += KEEP + 1
    rig.settle(new)
    assert (rig.replicas(old), rig.replicas(new)) == (0, 2)
    assert {p.seat for p in rig.server.pods.values()} == {"j-agg-0", "j-agg-1"}


def test_a_revision_that_cannot_come_up_does_not_go_up_and_down(rig: Rig) -> None:
    name = knative(rig, up=False)
    rig.known()
    rig.autoscaler.step()
    assert rig.replicas(name) == 1
    pa = rig.server.objects[POD_AUTOSCALER, "aggregator-00001"]
    changes = 0
    for _ in range(100):  # Knative: unreachable while it has pods and none is ready
        has_pods = rig.replicas(name) > 0
        pa["spec"]["reachability"] = "Unreachable" if has_pods else "Reachable"
        before = rig.replicas(name)
        rig.autoscaler.step()
        changes += rig.replicas(name) != before
        rig.now += 1.0
    assert changes <= 2 * 100 / KEEP + 1


def test_other_classes_are_not_touched(rig: Rig) -> None:
    name = knative(rig)
    pa = rig.server.objects[POD_AUTOSCALER, "aggregator-00001"]
    pa["metadata"]["annotations"]["autoscaling.knative.dev/class"] = "kpa.autoscaling.knative.dev"
    rig.known()
    rig.want(0)
    rig.autoscaler.step()
    assert (rig.replicas(name), rig.server.calls) == (0, [])
