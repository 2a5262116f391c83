"""What the side is told: image, namespace, Broker, tree and addresses.

Why: clusters differ in how pods reach this machine and this machine a Broker. It must not ask the
cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

BROKER_CLASS = "MTChannelBasedBroker"
NAMESPACE = "lifl-vanilla"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be chosen.

    ``broker_class`` is the Broker's delivery class, ``broker_config`` the ConfigMap it is made from
    as ``NAMESPACE/NAME`` (empty: the cluster's default). ``retry`` is how often it delivers again
    what was not taken; 10 is Eventing's default. ``ingress`` is where clients send (HOST:PORT;
    empty: the Service that the Broker names, at its cluster IP); ``sink`` where pods reach this
    machine (an address; empty: the one that this machine has towards the nodes).
    ``from_zero``: a round begins when no aggregator's pod is left.
    """

    image: str
    namespace: str = NAMESPACE
    broker_class: str = BROKER_CLASS
    broker_config: str = ""
    retry: int = 10
    ingress: str = ""
    sink: str = ""
    fan_in: int = 2
    from_zero: bool = False
    round_seconds: float = 300.0


def image(registry: str, tag: str, version: str) -> str:
    """Return the aggregator's image, named as ``scripts/images`` does."""
    return f"{registry.rstrip('/')}/aggregator:{tag or version}"


def address(text: str, what: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``.

    Raises
    ------
    ValueError
        if it is none; ``what`` is named.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"{what} is HOST:PORT, not {text[:80]!r}")
    return host, int(port)
