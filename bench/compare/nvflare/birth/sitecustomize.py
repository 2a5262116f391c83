"""Runs first in every Python process of NVFlare's simulator: a client's leaves the group.

Why: the simulator starts its clients itself, so they are born into the group that is counted,
which is the server's alone. They leave before they have imported, allocated or done anything.
``LIFL_COMPARE_OUTSIDE`` names the control groups they go to, separated by colons.
"""

import os
import sys

if "nvflare.private.fed.app.simulator.simulator_worker" in sys.orig_argv:
    for _place in filter(None, os.environ.get("LIFL_COMPARE_OUTSIDE", "").split(os.pathsep)):
        with open(os.path.join(_place, "cgroup.procs"), "w") as _procs:  # noqa: PTH118, PTH123
            _procs.write(str(os.getpid()))
