"""What is applied is plain Knative, and Triggers catch each kind of event once."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bench.compare.knative import events, manifests
from bench.compare.knative.settings import Settings, address, image

SETTINGS = Settings(image="dev.local/lifl/aggregator:1")


def caught_by(triggers: list[dict[str, Any]], about: dict[str, str]) -> list[str]:
    """Return whose filter lets an event pass: every attribute is equal, as Eventing has it."""
    return [
        t["metadata"]["name"]
        for t in triggers
        if t["spec"]["filter"]["attributes"].items() <= about.items()
    ]


def test_services_are_stock() -> None:
    found = manifests.services(SETTINGS, 4)
    assert [s["metadata"]["name"] for s in found] == ["leaf-0", "leaf-1", "leaf-2", "leaf-3", "top"]
    for service in found:
        assert service["metadata"]["namespace"] == "lifl-vanilla"
        template = service["spec"]["template"]
        assert template["metadata"]["annotations"] == {
            "autoscaling.knative.dev/class": "kpa.autoscaling.knative.dev",
            "autoscaling.knative.dev/max-scale": "1",
            "autoscaling.knative.dev/min-scale": "1",
        }
        assert "schedulerName" not in template["spec"]
        (container,) = template["spec"]["containers"]
        assert container["image"] == SETTINGS.image
        env = {e["name"]: e["value"] for e in container["env"]}
        assert env == {"LIFL_NAME": service["metadata"]["name"]}  # no LIFL_DOMAIN: no agent
    assert "lifl.dev/" not in json.dumps(found)


def test_from_zero_keeps_no_replica() -> None:
    (service,) = manifests.services(replace(SETTINGS, from_zero=True), 1)
    annotations = service["spec"]["template"]["metadata"]["annotations"]
    assert "autoscaling.knative.dev/min-scale" not in annotations


def test_each_event_has_one_trigger() -> None:
    triggers = manifests.triggers(SETTINGS, 4, "http://192.0.2.1:9/means")
    for part in events.plan(8, 2):
        about = events.attributes("run.1", 0, part, 10)
        assert caught_by(triggers, about) == [f"leaf-{part.leaf}"]
    assert caught_by(triggers, {"type": events.PARTIAL, "subject": "run.1"}) == ["top"]
    assert caught_by(triggers, {"type": events.MEAN, "subject": "run.1"}) == ["means"]
    means = triggers[-1]["spec"]
    assert means["subscriber"] == {"uri": "http://192.0.2.1:9/means"}
    assert {t["spec"]["broker"] for t in triggers} == {manifests.BROKER}


def test_one_leaf_needs_no_top() -> None:
    assert [s["metadata"]["name"] for s in manifests.services(SETTINGS, 1)] == ["leaf-0"]
    names = [t["metadata"]["name"] for t in manifests.triggers(SETTINGS, 1, "http://h/means")]
    assert names == ["leaf-0", "means"]


def test_the_brokers_class_and_configuration_can_be_chosen() -> None:
    found = manifests.broker(SETTINGS, "http://h:1/dead")
    assert found["metadata"]["annotations"] == {
        "eventing.knative.dev/broker.class": "MTChannelBasedBroker"
    }
    assert "config" not in found["spec"]
    assert found["spec"]["delivery"]["deadLetterSink"] == {"uri": "http://h:1/dead"}
    assert found["spec"]["delivery"]["retry"] == 10
    other = replace(SETTINGS, broker_class="Kafka", broker_config="ns/kafka", retry=0)
    found = manifests.broker(other, "http://h:1/dead")
    assert found["metadata"]["annotations"]["eventing.knative.dev/broker.class"] == "Kafka"
    assert (found["spec"]["config"]["namespace"], found["spec"]["config"]["name"]) == (
        "ns",
        "kafka",
    )
    assert found["spec"]["delivery"]["retry"] == 0
    with pytest.raises(ValueError, match="NAMESPACE/NAME"):
        manifests.broker(replace(SETTINGS, broker_config="kafka"), "http://h:1/dead")


def test_settings() -> None:
    assert image("registry.test/lifl/", "", "0.1.0") == "registry.test/lifl/aggregator:0.1.0"
    assert image("r", "c7", "0.1.0") == "r/aggregator:c7"
    assert address("192.0.2.1:80", "--ingress") == ("192.0.2.1", 80)
    for wrong in ("192.0.2.1", ":80", "h:", "h:0", "h:70000", "h:http"):
        with pytest.raises(ValueError, match="--ingress is HOST:PORT"):
            address(wrong, "--ingress")
