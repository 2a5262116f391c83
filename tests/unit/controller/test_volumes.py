from __future__ import annotations

from typing import Any, cast

import pytest

from controller.clients.api import Cluster
from controller.clients.errors import Forbidden, NotFound
from controller.clients.kinds import Kind
from controller.cluster.binding import Claim
from controller.cluster.objects import PodView, Requirement, Term
from controller.volumes import AGAIN_SECONDS, Volumes
from lifl.errors import LiflError, Unavailable


class FakeApi:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.error: LiflError | None = None
        self.asked: list[str] = []
        self.patched: list[Any] = []

    def get(self, kind: Kind, name: str, namespace: str = "") -> dict[str, Any]:
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        try:
            return self.objects[kind.plural, name]
        except KeyError:
            raise NotFound(f"{kind.plural} {name} not found", 404) from None

    def find(self, kind: Kind, name: str, namespace: str = "") -> dict[str, Any] | None:
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def patch(self, kind: Kind, name: str, body: Any, namespace: str) -> None:
        self.patched.append((kind.plural, namespace, name, body))


class Rig:
    def __init__(self) -> None:
        self.api, self.now = FakeApi(), 0.0
        self.volumes = Volumes(cast(Cluster, self.api), clock=lambda: self.now)
        self.claim()

    def claim(self, *, volume: str = "", phase: str = "Pending", **metadata: Any) -> None:
        spec: dict[str, Any] = {"storageClassName": "fast"}
        if volume:
            spec["volumeName"] = volume
        self.api.objects["persistentvolumeclaims", "data"] = {
            "metadata": {"name": "data", **metadata},
            "spec": spec,
            "status": {"phase": phase},
        }

    def volume(self, **spec: Any) -> None:
        self.api.objects["persistentvolumes", "v"] = {"metadata": {"name": "v"}, "spec": spec}

    def storage(self, **fields: Any) -> None:
        waits = {"volumeBindingMode": "WaitForFirstConsumer", "provisioner": "example.com/disks"}
        self.api.objects["storageclasses", "fast"] = {
            "metadata": {"name": "fast"},
            **waits,
            **fields,
        }

    def look(self) -> Claim:
        pod = PodView("lifl", "p", "u", claims=("data",))
        return self.volumes.look([pod])["lifl", "data"]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_bound_volume_says_where_it_can_be_used(rig: Rig) -> None:
    rig.claim(volume="v", phase="Bound")
    rig.volume()
    assert rig.look() == Claim()
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]
    rig = Rig()
    rig.claim(volume="v", phase="Bound")
    rig.volume(nodeAffinity={"required": {"nodeSelectorTerms": terms}})
    assert rig.look() == Claim((Term((Requirement("zone", "In", ("b",)),), ()),))


def test_what_lasts_is_asked_once(rig: Rig) -> None:
    rig.claim(volume="v", phase="Bound")
    rig.volume()
    for _ in range(3):
        rig.now += 100
        rig.look()
    assert rig.api.asked == ["data", "v"]
    rig.volumes.look([])
    rig.look()
    assert rig.api.asked == ["data", "v"] * 2


def test_what_may_change_is_asked_again_after_a_while(rig: Rig) -> None:
    rig.storage()
    assert rig.look().waits
    rig.look()
    assert rig.api.asked == ["data", "fast"]
    rig.now += AGAIN_SECONDS
    rig.look()
    assert rig.api.asked == ["data", "fast"] * 2


def test_a_storage_class_that_makes_volumes_in_some_places_only(rig: Rig) -> None:
    zones = [{"matchLabelExpressions": [{"key": "zone", "values": ["a", "b"]}]}]
    rig.storage(allowedTopologies=zones)
    terms = (Term((Requirement("zone", "In", ("a", "b")),), ()),)
    assert rig.look() == Claim(terms, waits=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.api.objects.clear(), "not found"),
        (lambda r: r.claim(volume="v", phase="Pending"), "is being bound to v"),
        (lambda r: r.claim(volume="v", phase="Bound"), "persistentvolumes v not found"),
        (lambda r: r.claim(deletionTimestamp="now"), "is being deleted"),
        (lambda r: r.storage(volumeBindingMode="Immediate"), "unbound immediate"),
        (lambda r: r.api.objects.pop(("storageclasses", "fast")), "unbound immediate"),
        (lambda r: r.storage(provisioner="kubernetes.io/no-provisioner"), "makes no volumes"),
        (
            lambda r: r.claim(annotations={"volume.kubernetes.io/selected-node": "n1"}),
            "waits for its volume on n1",
        ),
        (lambda r: setattr(r.api, "error", Forbidden("not yours", 403)), "not yours"),
        (lambda r: setattr(r.api, "error", Unavailable("away")), "cannot be read: away"),
    ],
)
def test_problems_are_told(rig: Rig, change: Any, words: str) -> None:
    rig.storage()
    change(rig)
    found = rig.look()
    assert words in found.problem
    assert not found.waits


def test_a_claim_is_told_its_node_and_read_anew(rig: Rig) -> None:
    rig.storage()
    rig.look()
    rig.volumes.select("lifl", "data", "n1")
    note = {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}}
    assert rig.api.patched == [("persistentvolumeclaims", "lifl", "data", note)]
    rig.claim(annotations=note["metadata"]["annotations"])
    assert "waits for its volume" in rig.look().problem
