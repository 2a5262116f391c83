"""`python -m bench.compare.knative`: vanilla Knative and LIFL on the cluster of ``KUBECONFIG``.

Deploys the aggregator as plain Knative Services behind a Broker and Triggers, plays rounds of
ready-made updates, takes it off again; plays the same on LIFL if that is installed. Writes
``rounds.json`` and ``table.md`` into ``--out``. Exit status 1 if a side failed, 2 if nothing could
be played. docs/benchmarks.md says what the cluster needs.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

from bench.compare import arrivals, shapes
from bench.compare.api import Load
from bench.compare.knative import play, table
from bench.compare.knative.kube import ClusterError, Kube, check_configured
from bench.compare.knative.lifl_side import ClusterLifl
from bench.compare.knative.settings import BROKER_CLASS, NAMESPACE, Settings, address, image
from bench.compare.knative.system import Knative
from bench.compare.knative.usage import Meter
from bench.compare.knative.ways import Way
from bench.compare.machine import machine
from lifl import __version__

SIDES = ("knative", "knative-zero", "lifl")
COUNTED = ("knative-eventing", "knative-serving", "kourier-system", "lifl", "lifl-system")
"""Namespaces whose pods carry payloads, or decide: counted if they are there."""
_SIZE = re.compile(r"[1-9][0-9]*kb\Z")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what was asked for; return the exit status."""
    args = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _ended)
    kube = Kube()
    try:
        check_configured()
        settings = _settings(args)
        about = _about(kube, settings)
        runs: list[play.Seen] = []
        for model in args.models:
            runs.append(_play(args, settings, kube, model))
            play.write(args.out, about, runs, table.render(about, runs))
    except (ClusterError, ValueError) as e:
        print(f"bench.compare.knative: {e}", file=sys.stderr)
        return 2
    print((args.out / "table.md").read_text())
    return int(any(s.failed for seen in runs for s in seen.sides.values()))


def _ended(*_: Any) -> None:
    """End as with Ctrl-C, so that what was deployed is taken off."""
    raise KeyboardInterrupt


def _play(args: argparse.Namespace, settings: Settings, kube: Kube, model: str) -> play.Seen:
    document = shapes.document(model)
    load = Load(f"burst-{args.clients}x{model}", model, args.clients, arrivals.burst(args.clients))
    there = {n["metadata"]["name"] for n in kube.get("namespaces")["items"]}
    own = {f"{settings.namespace}{suffix}" for suffix in ("", "-zero")}
    counted = own | (set(args.count or COUNTED) & there)
    player = play.Player(load, len(document), Meter(kube, counted), _tell)
    sides: list[play.ClusterSide] = []
    for name in args.sides:
        if name == "lifl":
            way = Way(args.lifl_url, args.lifl_ingress) if args.lifl_url else None
            sides.append(
                ClusterLifl(
                    load,
                    document,
                    way=way,
                    fan_in=args.fan_in,
                    round_seconds=args.round_seconds,
                    kube=kube,
                )
            )
            continue
        zero = name == "knative-zero"
        home = settings.namespace + ("-zero" if zero else "")
        sides.append(
            Knative(load, document, replace(settings, from_zero=zero, namespace=home), kube)
        )
    _tell(f"{load.name}: {len(document) / 1e6:.1f} MB an update")
    return player.run(sides, args.rounds, args.warm, args.turns)


def _settings(args: argparse.Namespace) -> Settings:
    for text, what in ((args.ingress, "--ingress"), (args.lifl_ingress, "--lifl-ingress")):
        if text:
            address(text, what)
    registry = os.environ.get("LIFL_REGISTRY", "dev.local/lifl")
    return Settings(
        image=args.image or image(registry, os.environ.get("LIFL_TAG", ""), __version__),
        namespace=args.namespace,
        broker_class=args.broker_class,
        broker_config=args.broker_config,
        retry=args.retry,
        ingress=args.ingress,
        sink=args.sink,
        fan_in=args.fan_in,
        round_seconds=args.round_seconds,
    )


def _about(kube: Kube, settings: Settings) -> dict[str, Any]:
    nodes = kube.get("nodes")["items"]
    info = nodes[0]["status"]["nodeInfo"]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "kubernetes": info["kubeletVersion"],
        "runtime": info["containerRuntimeVersion"],
        "nodes": len(nodes),
        "image": settings.image,
        "broker": f"{settings.broker_class}, {settings.retry} retries",
    }


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _model(text: str) -> str:
    if text != "digits" and text not in shapes.ARCHITECTURES and not _SIZE.match(text):
        known = ", ".join(shapes.ARCHITECTURES)
        raise argparse.ArgumentTypeError(f"{text!r} is none of digits, {known} or such as 1000kb")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare.knative",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--sides", nargs="+", choices=SIDES, default=["knative", "lifl"], metavar="SIDE",
        help=f"of {', '.join(SIDES)}; default: knative lifl")  # fmt: skip
    add("--models", nargs="+", type=_model, default=["45mb"], metavar="MODEL",
        help="digits, 45mb, 85mb, 233mb or such as 1000kb; default: 45mb")  # fmt: skip
    add("--clients", type=int, default=8, help="default: 8")
    add("--rounds", type=int, default=5, help="in a row, of each side's turn; default: 5")
    add("--turns", type=int, default=2, help="of each side; default: 2")
    add("--warm", type=int, default=1, help="a turn's first rounds do not count; default: 1")
    add("--fan-in", type=int, default=2, help="updates a leaf; default: 2")
    add("--image", default="", help="default: $LIFL_REGISTRY/aggregator:$LIFL_TAG")
    add("--namespace", default=NAMESPACE, help=f"made and deleted; default: {NAMESPACE}")
    add("--broker-class", default=BROKER_CLASS, help=f"default: {BROKER_CLASS}")
    add("--broker-config", default="", metavar="NAMESPACE/NAME", help="a ConfigMap; default: none")
    add("--retry", type=int, default=10, help="deliveries after the first; default: 10")
    add("--ingress", default="", metavar="HOST:PORT", help="the Broker's, as seen from here")
    add("--sink", default="", metavar="ADDRESS", help="this machine's, as seen by pods")
    add("--lifl-url", default="", metavar="URL", help="a gateway; default: the first on Knative")
    add("--lifl-ingress", default="", metavar="HOST:PORT", help="connected to for --lifl-url")
    add("--round-seconds", type=float, default=300.0, help="longest round; default: 300")
    add("--count", nargs="+", metavar="NAMESPACE",
        help="whose CPU counts besides; default: Knative's, Kourier's, LIFL's")  # fmt: skip
    add("--out", type=Path, default=Path("results/compare-knative"), help="where to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
