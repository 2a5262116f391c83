"""Entry point of the `lifl` command: the groups, and errors turned into exit codes."""

from __future__ import annotations

import click

from lifl import __version__
from lifl.cli import calibrate, jobs, platform, sim
from lifl.cli.output import INTERRUPTED, errors, fail
from lifl.errors import LiflError

EPILOG = """\b
Exit codes:
  0    ok
  1    failed
  2    wrong usage, setting or job file
  3    the platform does not run or does not answer
  4    there is no such job or process
  5    refused: not allowed, or not possible in the present state
  130  interrupted

LIFL_HOME is where the local platform keeps everything
(default: /var/lib/lifl as root, ~/.lifl otherwise)."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lifl")
def cli() -> None:
    """Serverless aggregation for federated learning."""


for command in (
    platform.up,
    platform.down,
    platform.status,
    platform.doctor,
    platform.logs,
    platform.completion,
    calibrate.calibrate,
    jobs.job,
    sim.sim,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; never shows a traceback for an error of the project's own."""
    try:
        cli(standalone_mode=False, prog_name="lifl")
    except click.exceptions.Exit as e:
        raise SystemExit(e.exit_code) from None
    except click.ClickException as e:
        e.show()
        raise SystemExit(e.exit_code) from None
    except (click.Abort, KeyboardInterrupt):
        errors.print("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except LiflError as e:
        fail(e)


if __name__ == "__main__":
    main()
