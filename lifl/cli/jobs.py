"""Commands about jobs: submit, model, list, show, watch, stop, delete, token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.live import Live

from lifl.auth import mint_client_token
from lifl.cli import jobfile, output
from lifl.cli.access import Access, key_option, with_access
from lifl.client.http import HttpClient, HttpError, raise_for_status
from lifl.errors import ConfigError, Unavailable
from lifl.naming import MEDIA_SAFETENSORS, check_client

OVER = frozenset({"done", "stopped", "failed"})
WATCH_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
SUBMIT_SECONDS = 120.0
DELETED_SECONDS = 30.0


@click.group()
def job() -> None:
    """Submit, watch, stop and delete jobs."""


@job.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--name", help="Use this name instead of the file's.")
@output.json_option
@with_access
def submit(access: Access, file: Path, name: str | None, as_json: bool) -> None:
    """Submit the job in FILE (YAML) with its initial model."""
    document = jobfile.load(file)
    if name is not None:
        document = document | {"metadata": {**(document.get("metadata") or {}), "name": name}}
    model = jobfile.initial_model(document, file.parent)
    answer = submit_job(access, document, model)
    if as_json:
        output.emit_json(answer)
        return
    output.console.print(
        f"submitted {answer['job']}; follow it with: lifl job watch {answer['job']}\n"
        f"tokens for clients: lifl job token {answer['job']} CLIENT"
    )


def submit_job(access: Access, document: dict[str, Any], model: bytes) -> dict[str, Any]:
    """Submit a job with its initial model, keep its key; return the coordinator's answer.

    Raises
    ------
    HttpError
        if the job file or the model is refused, or the name is taken.
    """
    answer: dict[str, Any] = access.client().json("POST", "/v1/jobs", {"spec": document})
    access.keep_key(answer["job"], answer["auth_key"])
    _put_model(access, answer["job"], model)
    return answer


def _put_model(access: Access, name: str, model: bytes | BinaryIO, length: int = 0) -> None:
    sent = {"Content-Type": MEDIA_SAFETENSORS}
    if length:
        sent["Content-Length"] = str(length)
    response = access.client(name).request(
        "PUT", f"/v1/jobs/{name}/model", body=model, headers=sent, timeout=SUBMIT_SECONDS
    )
    raise_for_status(response)


@job.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@key_option
@with_access
def model(access: Access, name: str, file: Path) -> None:
    """Send FILE (safetensors) as the initial model of a job that waits for it."""
    try:
        with file.open("rb") as source:
            _put_model(access, name, source, file.stat().st_size)
    except OSError as e:
        raise ConfigError(f"{file}: {e.strerror}") from e
    output.console.print(f"{name} has its model; follow it with: lifl job watch {name}")


@job.command(name="list")
@output.json_option
@with_access
def list_(access: Access, as_json: bool) -> None:
    """List all jobs."""
    jobs = access.client().json("GET", "/v1/jobs")["jobs"]
    if as_json:
        output.emit_json(jobs)
        return
    output.emit_table(
        "jobs",
        ["job", "state", "submitted", "detail"],
        ([j["job"], j["state"], _when(j["created"]), j["detail"]] for j in jobs),
    )


@job.command()
@click.argument("name")
@output.json_option
@key_option
@with_access
def show(access: Access, name: str, as_json: bool) -> None:
    """Show how far a job is, and its history."""
    client = access.client(name)
    status = client.json("GET", f"/v1/jobs/{name}")
    history = client.json("GET", f"/v1/jobs/{name}/history")["rounds"]
    if as_json:
        output.emit_json(status | {"history": history})
        return
    output.console.print(_headline(status), highlight=False)
    output.emit_table(
        "history",
        ["round", "updates", "samples", "accuracy", "seconds"],
        (_history_row(row) for row in history),
    )


@job.command()
@click.argument("name")
@output.json_option
@key_option
@with_access
def watch(access: Access, name: str, as_json: bool) -> None:
    """Follow a job until it is over; ends with 1 if it failed or was stopped."""
    client = access.client(name)
    state = "unknown"
    if as_json:
        for status in changes(client, name):
            click.echo(json.dumps(status))
            state = status["state"]
    else:
        with Live(console=output.console, auto_refresh=False) as live:
            for status in changes(client, name):
                live.update(_headline(status), refresh=True)
                state = status["state"]
    if state != "done":
        raise SystemExit(output.FAILED)


def changes(client: HttpClient, name: str) -> Iterator[dict[str, Any]]:
    """Yield a job's status at each change, the last when it is over.

    A platform that does not answer for a moment is asked again.

    Raises
    ------
    Unavailable
        if it does not answer for PATIENCE_SECONDS.
    """
    last: dict[str, Any] = {}
    heard = time.monotonic()
    while last.get("state") not in OVER:
        try:
            status = client.json("GET", f"/v1/jobs/{name}")
        except Unavailable:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
        else:
            heard = time.monotonic()
            if status != last:
                last = status
                yield status
        if last.get("state") not in OVER:
            time.sleep(WATCH_SECONDS)


@job.command()
@click.argument("name")
@output.json_option
@key_option
@with_access
def stop(access: Access, name: str, as_json: bool) -> None:
    """Stop a job; its last model stays."""
    status = access.client(name).json("POST", f"/v1/jobs/{name}/stop")
    if as_json:
        output.emit_json(status)
    else:
        output.console.print(f"{name} is stopped")


@job.command()
@click.argument("name")
@key_option
@with_access
def delete(access: Access, name: str) -> None:
    """End a job and forget all of it, its models too; its name is free afterwards."""
    client = access.client(name)
    client.json("DELETE", f"/v1/jobs/{name}")
    deadline = time.monotonic() + DELETED_SECONDS
    while _leaving(client, name):
        if time.monotonic() > deadline:
            output.console.print(f"{name} is deleted; nodes still hold what was left of it")
            return
        time.sleep(WATCH_SECONDS)
    access.forget_key(name)
    output.console.print(f"{name} is deleted")


def _leaving(client: HttpClient, name: str) -> bool:
    """Whether a deleted job's name is not free yet."""
    try:
        client.json("GET", f"/v1/jobs/{name}")
    except HttpError as e:
        return e.code == "job-deleted"
    return False


@job.command()
@click.argument("name")
@click.argument("client")
@click.option("--hours", type=click.FloatRange(min=0.01), default=24.0, show_default=True)
@key_option
@with_access
def token(access: Access, name: str, client: str, hours: float) -> None:
    """Print a token with which CLIENT may take part in the job; made here, without the platform."""
    key = access.key(name)
    click.echo(mint_client_token(key, name, check_client(client), lifetime=hours * 3600.0))


def _headline(status: dict[str, Any]) -> str:
    if "round" not in status:
        return f"{status['job']}: {status['state']} {status['detail']}".rstrip()
    kept = "" if status.get("kept", True) else ", not on the disk yet"
    return (
        f"{status['job']}: {status['state']}, round {status['round']} of {status['rounds']} "
        f"({status['phase']}), {status['accepted']} of {status['goal']} updates in, "
        f"model version {status['version']}{kept}"
    )


def _history_row(row: dict[str, Any]) -> list[object]:
    accuracy = row.get("accuracy")
    return [
        row["round"],
        row["aggregated"],
        f"{row['samples']:g}",
        None if accuracy is None else f"{accuracy:.2%}",
        f"{row['committed'] - row['opened']:.2f}",
    ]


def _when(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix))
