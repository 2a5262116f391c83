"""What a command prints, and the exit code it ends with.

Why: people get tables on a terminal, scripts get JSON on stdout and a code that
means something; errors go to stderr in one sentence. It must not do I/O but print.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from lifl.client.http import HttpError
from lifl.errors import ConfigError, LiflError, Unavailable
from lifl.platform.running import AlreadyRunning, NotRunning

OK, FAILED, USAGE, NOT_RUNNING, NOT_FOUND, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

console = Console()
errors = Console(stderr=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a script.")


def emit_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2))


def emit_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)


def exit_code(error: LiflError) -> int:
    """Return the exit code of an error."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, NotRunning | Unavailable):
        return NOT_RUNNING
    if isinstance(error, AlreadyRunning):
        return REFUSED
    if isinstance(error, HttpError):
        return NOT_FOUND if error.status == 404 else REFUSED
    return FAILED


def fail(error: LiflError) -> NoReturn:
    """Print an error and end with its exit code."""
    errors.print(f"[bold red]error:[/] {error}", markup=True, highlight=False, soft_wrap=True)
    raise SystemExit(exit_code(error))
