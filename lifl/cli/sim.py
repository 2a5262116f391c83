"""`lifl sim`: rounds at scales that no test machine has, simulated by ``bench.sim``.

Why: people look for it beside the other commands, but what is simulated are decisions of upper
parts, which this package starts only as processes. It must not know the options: the other
process does.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import click

from lifl.errors import LiflError

MODULE = "bench.sim"


@click.command(
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": [],  # the other process has more to say
    },
    options_metavar="[OPTIONS, see lifl sim --help]",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sim(arguments: tuple[str, ...]) -> None:
    """Simulate rounds of many clients on many nodes, beside other ways to aggregate."""
    if importlib.util.find_spec(MODULE.partition(".")[0]) is None:
        raise LiflError("the simulator is not installed here: it is in the project's bench/")
    ended = subprocess.run([sys.executable, "-m", MODULE, *arguments], check=False)
    if ended.returncode:
        raise SystemExit(128 - ended.returncode if ended.returncode < 0 else ended.returncode)
