"""Run the node agent: ``python -m ebpf.agent``, settings from the environment.

``python -m ebpf.agent --clear`` serves nothing: it takes away what one that was killed has
left pinned.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ebpf.agent.agent import Agent, clear
from ebpf.agent.settings import AgentSettings
from lifl.errors import LiflError
from lifl.limits import allow_most_files


def main(argv: Sequence[str] = ()) -> int:
    """Serve until told to stop, or clear up; 1 if it could not."""
    parser = argparse.ArgumentParser(prog="python -m ebpf.agent", description="LIFL's node agent")
    parser.add_argument("--clear", action="store_true", help="take away what a killed one left")
    arguments = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    allow_most_files()  # each function costs it half a dozen
    try:
        settings = AgentSettings.from_env()
        if arguments.clear:
            clear(settings)
        else:
            Agent(settings).run()
    except (LiflError, OSError) as e:
        print(f"lifl agent: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
