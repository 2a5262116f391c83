"""The main job in one command: a platform of its own, 10 clients, 20 rounds, a report.

::

    make demo            or            python examples/digits/demo.py --nodes 3

Starts the local platform in a directory of its own on free ports, submits
job.yaml, starts the clients as processes, evaluates every model version on
held-out data, and ends everything again. Ends with 1 below 95 % accuracy.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import model as digits
import safetensors.torch
from report import Progress, plot_accuracy, summary
from rich.console import Console
from rich.live import Live

from lifl.auth import mint_client_token
from lifl.cli import jobfile
from lifl.cli.access import Access
from lifl.cli.jobs import OVER, submit_job
from lifl.client.http import HttpClient
from lifl.errors import LiflError, Unavailable
from lifl.platform import doctor, running
from lifl.platform.paths import Paths

HERE = Path(__file__).resolve().parent
TARGET = 0.95
UP_SECONDS = 120.0
SILENCE_SECONDS = 120.0
CLIENT_END_SECONDS = 60.0
REFRESH_SECONDS = 0.2

console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the local platform")
    parser.add_argument("--dataplane", choices=["ebpf", "socket"], help="default: ebpf if possible")
    parser.add_argument("--rounds", type=int, help="instead of the job file's")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where to write")
    args = parser.parse_args()

    dataplane = args.dataplane
    if dataplane is None:
        dataplane, why = doctor.default_dataplane()
        if why:
            console.print(f"plain-socket data plane, because {why}", highlight=False)
    document = jobfile.load(HERE / "job.yaml")
    if args.rounds is not None:
        document["spec"]["rounds"] = args.rounds
    args.results.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with platform(args.nodes, dataplane) as paths:
        outcome = run_job(paths, document)
    outcome |= {"dataplane": dataplane, "nodes": args.nodes, "seconds": time.monotonic() - began}
    return tell(outcome, args.results)


@contextlib.contextmanager
def platform(nodes: int, dataplane: str) -> Iterator[Paths]:
    """Run a platform in a directory of its own; it is removed unless something went wrong."""
    home = Path(tempfile.mkdtemp(prefix="lifl-demo-", dir="/tmp"))
    os.environ["LIFL_HOME"] = str(home)
    paths = Paths(home)
    port = str(free_ports(nodes))
    arguments = ["--nodes", str(nodes), "--dataplane", dataplane, "--port", port]
    console.print(f"starting the platform: {nodes} node(s), {dataplane} data plane")
    try:
        running.detach(paths, arguments, UP_SECONDS)
        yield paths
    except BaseException:
        running.down(paths)
        console.print(f"logs are in {paths.logs}")
        raise
    running.down(paths)
    shutil.rmtree(home)


def free_ports(nodes: int) -> int:
    """Return a port P such that P to P + nodes - 1 and P + 100 are free just now."""
    for port in range(18080, 28080, 200):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for wanted in (*range(port, port + nodes), port + 100):
                s = stack.enter_context(socket.socket())
                s.bind(("127.0.0.1", wanted))
            return port
    raise LiflError("no free ports from 18080 to 28080")
