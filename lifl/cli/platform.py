"""Commands about the platform itself: up, down, status, doctor, logs, completion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click
from click.shell_completion import get_completion_class

from lifl.cli import output
from lifl.errors import ConfigError
from lifl.platform import doctor as checks
from lifl.platform import running
from lifl.platform.local import LocalPlatform
from lifl.platform.paths import Paths
from lifl.platform.services import UpConfig
from lifl.platform.supervisor import Supervisor, log_tail

COORDINATOR_OFFSET = 100
UP_TIMEOUT = 90.0


@click.command()
@click.option("--nodes", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option(
    "--dataplane",
    type=click.Choice(["ebpf", "socket"]),
    help="How descriptors travel. [default: ebpf where this machine can, else socket]",
)
@click.option("--detach", is_flag=True, help="Return once everything serves.")
@click.option(
    "--port",
    type=click.IntRange(1, 65000),
    default=8080,
    show_default=True,
    help="Node i's gateway listens on PORT+i, the coordinator on PORT+100.",
)
@click.option("--no-auth", is_flag=True, help="Let clients in without a token.")
def up(nodes: int, dataplane: str | None, detach: bool, port: int, no_auth: bool) -> None:
    """Start the local platform and keep it running."""
    paths = Paths.from_env()
    running.clear(paths)
    if dataplane is None:
        dataplane, why = checks.default_dataplane()
        if why:
            click.echo(f"plain-socket data plane ({why}); lifl doctor says more", err=True)
    config = UpConfig(
        nodes=nodes,
        dataplane=dataplane,
        gateway_ports=tuple(range(port, port + nodes)),
        coordinator_port=port + COORDINATOR_OFFSET,
        auth=not no_auth,
    )
    if detach:
        arguments = ["--nodes", str(nodes), "--dataplane", dataplane, "--port", str(port)]
        running.detach(paths, arguments + ["--no-auth"] * no_auth, UP_TIMEOUT)
        _greet(config, paths)
        return
    paths.create(config.node_names)
    Supervisor(
        config,
        paths,
        report=lambda text: click.echo(text, err=True),
        on_ready=lambda: _greet(config, paths),
    ).run()


def _greet(config: UpConfig, paths: Paths) -> None:
    say = output.console.print
    where = f"{config.nodes} node{'s' * (config.nodes > 1)}, {config.dataplane} data plane"
    say(f"LIFL runs at {config.gateway_url(0)} ({where})")
    platform = LocalPlatform(
        paths, dataplane=config.dataplane, coordinator_url=config.coordinator_url
    )
    if platform.shared_user:
        say(f"jobs are not isolated from each other: {platform.shared_user}")
    if not config.auth:
        say("[bold red]AUTHENTICATION IS OFF: anybody who reaches the ports can post updates[/]")


@click.command()
def down() -> None:
    """End the local platform and everything it started."""
    if not running.down(Paths.from_env()):
        output.console.print("nothing was running")


@click.command()
@output.json_option
def status(as_json: bool) -> None:
    """Show what runs: processes, aggregators, URLs, data plane."""
    paths = Paths.from_env()
    state = running.need(paths) | {"aggregators": running.aggregators(paths)}
    if as_json:
        output.emit_json(state)
        return
    output.console.print(
        f"{state['state']} at {state['url']}, {state['dataplane']} data plane, "
        f"{len(state['nodes'])} node(s), authentication {'on' if state['auth'] else 'OFF'}"
    )
    output.emit_table("processes", ["name", "state", "pid", "restarts"], _process_rows(state))
    output.emit_table(
        "aggregators",
        ["name", "job", "node", "pid", "uid"],
        ([a["name"], a["job"], a["node"], a["pid"], a["uid"]] for a in state["aggregators"]),
    )


def _process_rows(state: dict[str, Any]) -> Iterator[list[object]]:
    for name, row in state["processes"].items():
        yield [name, row["state"], row["pid"], row["restarts"]]


@click.command()
@output.json_option
def doctor(as_json: bool) -> None:
    """Say what this machine lacks for the eBPF data plane, and what fixes it.

    Ends with 1 if the eBPF data plane cannot be used.
    """
    found = checks.checks()
    if as_json:
        output.emit_json(checks.to_json(found))
    else:
        output.emit_table(
            "lifl doctor",
            ["", "what", "found", "fix", "needed for"],
            (
                ["ok" if c.ok else "--", c.name, c.detail, "" if c.ok else c.fix, c.needed_for]
                for c in found
            ),
        )
        usable = checks.ebpf_ready(found)
        output.console.print(f"data plane: {'ebpf' if usable else 'socket (plain sockets)'}")
    if not checks.ebpf_ready(found):
        raise SystemExit(output.FAILED)


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--lines", type=click.IntRange(1), default=50, show_default=True)
def logs(name: str | None, follow: bool, lines: int) -> None:
    """Show the log of one process, or which there are."""
    paths = Paths.from_env()
    names = sorted(p.stem for p in paths.logs.glob("*.log"))
    if name is None:
        for known in names:
            click.echo(known)
        return
    if name not in names:
        output.errors.print(f"there is no log of {name!r}; there are: {', '.join(names) or 'none'}")
        raise SystemExit(output.NOT_FOUND)
    if follow:
        os.execvp("tail", ["tail", "-n", str(lines), "-F", "--", str(paths.log(name))])
    for line in log_tail(paths.log(name), lines):
        click.echo(line)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script: eval "$(lifl completion bash)"."""
    kind = get_completion_class(shell)
    if kind is None:
        raise ConfigError(f"no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "lifl", "_LIFL_COMPLETE").source())
