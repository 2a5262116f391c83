"""Run the node agent: ``python -m ebpf.agent``, settings from the environment."""

from __future__ import annotations

import logging
import sys

from ebpf.agent.agent import Agent
from ebpf.agent.settings import AgentSettings
from lifl.errors import LiflError
from lifl.limits import allow_most_files


def main() -> int:
    """Serve until told to stop; 1 if it could not start."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    allow_most_files()  # each function costs it half a dozen
    try:
        Agent(AgentSettings.from_env()).run()
    except LiflError as e:
        print(f"lifl agent: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
