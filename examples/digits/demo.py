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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model as digits
import safetensors.torch
from report import Progress, plot_accuracy, summary
from rich.console import Console
from rich.live import Live

from lifl.auth import mint_client_token, mint_submitter_token
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


def say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


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
            say(f"plain-socket data plane ({why}); lifl doctor says more")
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
    say(f"starting the platform: {nodes} node(s), {dataplane} data plane")
    try:
        running.detach(paths, arguments, UP_SECONDS)
        yield paths
    except BaseException:
        running.down(paths)
        say(f"logs are in {paths.logs}")
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


def run_job(paths: Paths, document: dict[str, Any]) -> dict[str, Any]:
    """Run the job to its end and return what happened."""
    access = Access(None, None)
    job = document["metadata"]["name"]
    submit_job(access, document, safetensors.torch.save(digits.build().state_dict()))
    clients = int(document["spec"]["clientConfig"]["clients"])
    say(f"starting {clients} clients, each a process with its own part of the digits")
    with processes() as start:
        for number in range(1, clients + 1):
            name = f"c{number}"
            token = mint_client_token(access.key(job), job, name)
            arguments = ["--client", name, "--gateway", access.url, "--job", job]
            start(HERE / "client.py", arguments, token, paths.log(f"client-{name}"))
        start(
            HERE / "evaluate.py",
            ["--gateway", access.url, "--job", job, "--follow"],
            mint_submitter_token(access.key(job), job),
            paths.log("evaluate"),
        )
        status = follow(access.client(job), job, paths)
    return outcome_of(access.client(job), job, status, clients)


Start = Callable[[Path, list[str], str, Path], None]


@contextlib.contextmanager
def processes() -> Iterator[Start]:
    """Start Python programs; at the end of the block wait for them, or kill them on an error."""
    started: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def start(program: Path, arguments: list[str], token: str, log: Path) -> None:
        with log.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, str(program), *arguments],
                env=os.environ | {"LIFL_TOKEN": token, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        started.append((log, child))

    try:
        yield start
        for log, child in started:
            code = child.wait(CLIENT_END_SECONDS)
            if code != 0:
                raise LiflError(f"{log.stem} ended with {code}:\n{log.read_text()[-2000:]}")
    finally:
        for _, child in started:
            child.kill()
            child.wait()


def follow(client: HttpClient, job: str, paths: Paths) -> dict[str, Any]:
    """Show progress until the job is over; return its last status."""
    progress = Progress(job)
    heard = time.monotonic()
    status: dict[str, Any] = {}
    with Live(progress, console=console, refresh_per_second=1 / REFRESH_SECONDS) as live:
        while status.get("state") not in OVER:
            try:
                status = client.json("GET", f"/v1/jobs/{job}")
                history = client.json("GET", f"/v1/jobs/{job}/history")["rounds"]
            except Unavailable:
                if time.monotonic() - heard > SILENCE_SECONDS:
                    raise
            else:
                heard = time.monotonic()
                progress.update(status, history, running.aggregators(paths))
                live.refresh()
            time.sleep(REFRESH_SECONDS)
    console.print()
    return status


def outcome_of(
    client: HttpClient, job: str, status: dict[str, Any], clients: int
) -> dict[str, Any]:
    """Return the figures of a job that is over."""
    history = client.json("GET", f"/v1/jobs/{job}/history")["rounds"]
    rated = [row for row in history if row["accuracy"] is not None]
    return {
        "job": job,
        "state": status["state"],
        "accuracy": rated[-1]["accuracy"] if rated else 0.0,
        "loss": rated[-1]["loss"] if rated else None,
        "rounds": len(history),
        "clients": clients,
        "versions": status["version"],
        "updates_accepted": sum(row["accepted"] for row in history),
        "updates_aggregated": sum(row["aggregated"] for row in history),
        "samples": sum(row["samples"] for row in history),
        "attempts": sum(row["attempts"] for row in history),
        "round_seconds": [row["committed"] - row["opened"] for row in history],
        "history": history,
    }


def tell(outcome: dict[str, Any], results: Path) -> int:
    """Print the summary, write results file and plot; return the exit code."""
    plot_accuracy(outcome["history"], TARGET, results / "accuracy.png")
    (results / "demo.json").write_text(json.dumps(outcome, indent=1) + "\n")
    console.print(summary(outcome))
    say(f"wrote {results / 'demo.json'} and {results / 'accuracy.png'}")
    problems = []
    if outcome["state"] != "done":
        problems.append(f"the job is {outcome['state']}")
    if outcome["accuracy"] < TARGET:
        problems.append(f"accuracy is {outcome['accuracy']:.2%}, below {TARGET:.0%}")
    if outcome["updates_accepted"] != outcome["updates_aggregated"]:
        problems.append("not every accepted update was aggregated")
    for problem in problems:
        say(f"[bold red]{problem}[/]")
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LiflError, subprocess.TimeoutExpired) as e:
        say(f"[bold red]error:[/] {e}")
        sys.exit(1)
