"""How many aggregators a round started, by the controller's log."""

from __future__ import annotations

import time
from pathlib import Path

from bench.harness import Platform
from lifl.platform.paths import Paths

LOG = """\
2026-11-27 04:00:01,250 INFO controller.loop: started leaf-0 on node-0
2026-11-27 04:00:01,900 WARNING controller.loop: leaf-0 ended; it may be started again in 0.5 s
2026-11-27 04:00:02,100 INFO controller.loop: started leaf-0 on node-0
2026-11-27 04:00:07,500 INFO controller.loop: started leaf-1 on node-1
"""


def test_what_a_later_round_started_is_left_out(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    log = paths.log("controller")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(LOG)
    platform = Platform(paths, {})
    four = time.mktime((2026, 11, 27, 4, 0, 0, 0, 0, -1))
    assert platform.started() == 3
    assert [platform.started(until=four + s) for s in (1.0, 1.25, 2.0, 2.2, 7.4, 7.6)] == [
        *(0, 1, 1, 2, 2, 3)
    ]
