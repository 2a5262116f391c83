"""Run the controller: ``python -m controller``.

LIFL_PLATFORM says of what: "local" (the default), one machine's processes, or
"kubernetes", the cluster it is in or that KUBECONFIG names.
"""

from __future__ import annotations

import logging
import os
import sys

from lifl import crash
from lifl.errors import LiflError
from lifl.settings import read


def main() -> int:
    """Reconcile until SIGTERM; aggregators outlive the controller. 1 if it could not start."""
    logging.basicConfig(
        level=os.environ.get("LIFL_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    crash.arm()
    try:
        platform = read(os.environ, "LIFL_PLATFORM", _platform, "local")
        if platform == "kubernetes":
            from controller.kubernetes_main import run  # what one machine needs none of
        else:
            from controller.local_main import run
        run()
    except LiflError as e:
        print(f"lifl controller: {e}", file=sys.stderr)
        return 1
    return 0


def _platform(raw: str) -> str:
    if raw not in {"local", "kubernetes"}:
        raise ValueError("use local or kubernetes")
    return raw


if __name__ == "__main__":
    sys.exit(main())
