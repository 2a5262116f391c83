"""How gunicorn runs an aggregator; :mod:`functions.aggregator.app` has the command.

Why: one worker, since the pool's mapping and the machine belong to one process;
a few threads, since only probes, metrics and the vanilla way use HTTP; the worker
class drains and counts (:mod:`functions.aggregator.worker`). The control socket is off:
it would start an event loop nobody asked for.
"""

from __future__ import annotations

import os
from math import ceil
from typing import Any

from functions.aggregator.draining import seconds
from lifl.booting import hear_signals, hold_signals
from lifl.keepalive import KEEPALIVE_SECONDS
from lifl.settings import read

DRAIN_SECONDS = read(os.environ, "LIFL_DRAIN_SECONDS", seconds, 0.0)

bind = f"{os.environ.get('LIFL_HOST', '127.0.0.1')}:{os.environ.get('PORT', '8080')}"
workers = 1
worker_class = "functions.aggregator.worker.AggregatorWorker"
threads = 4
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
timeout = 120
graceful_timeout = 30 + ceil(DRAIN_SECONDS)
keepalive = KEEPALIVE_SECONDS
pre_fork = hold_signals
post_worker_init = hear_signals


def worker_exit(_server: Any, worker: Any) -> None:
    """Seal and send what is held, then leave."""
    app = getattr(worker, "wsgi", None)  # None if the worker never came up
    runtime = app.extensions["lifl"] if app is not None else None
    if runtime is not None:
        runtime.stop(graceful_timeout)
