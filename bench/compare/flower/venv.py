"""Where Flower is installed, and in what environment its programs run.

Why: its pins clash with ours, so it has a virtual environment beside ours; nothing of it is
imported here. Its programs must ask nobody outside and keep their files where they are told.
"""

from __future__ import annotations

from pathlib import Path

from bench.compare.peer import Venv

VENV = Venv("flower", "flwr")


def settings(home: Path) -> dict[str, str]:
    """Return what the environment of Flower's programs has besides ours; ``home`` is theirs."""
    return VENV.settings(
        FLWR_HOME=str(home),
        FLWR_TELEMETRY_ENABLED="0",
        FLWR_DISABLE_UPDATE_CHECK="1",
        FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    )
