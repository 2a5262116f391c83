"""How gunicorn runs the coordinator; :mod:`functions.coordinator.app` has the command.

Why: one worker, since the rounds are decided in its memory; threads, since
every gateway and the controller keep a watch parked, and claims must not wait
behind those. Threads are made as they are needed, so that their number is a limit
(of a thousand nodes) and no cost. The control socket is off: nobody asked for it.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from lifl.booting import hear_signals, hold_signals
from lifl.keepalive import KEEPALIVE_SECONDS
from lifl.limits import allow_most_files

allow_most_files()  # the worker inherits it

wsgi_app = "functions.coordinator.app:app"
bind = f"{os.environ.get('LIFL_HOST', '127.0.0.1')}:{os.environ.get('PORT', '8090')}"
workers = 1
worker_class = "gthread"
threads = int(os.environ.get("LIFL_THREADS", "1100"))
worker_connections = 2000 + threads
keepalive = KEEPALIVE_SECONDS
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
timeout = 120
graceful_timeout = 20
pre_fork = hold_signals


def post_worker_init(worker: Any) -> None:
    """Let parked watches go as soon as the worker is told to end."""
    before = signal.getsignal(signal.SIGTERM)

    def end(signum: int, frame: FrameType | None) -> None:
        revisions = worker.wsgi.extensions["lifl"].revisions
        threading.Thread(target=revisions.close).start()  # a handler must not wait for a lock
        if callable(before):
            before(signum, frame)

    signal.signal(signal.SIGTERM, end)
    hear_signals()


def worker_exit(_server: Any, worker: Any) -> None:
    """Give leases back, then leave."""
    app = getattr(worker, "wsgi", None)
    if app is not None:
        app.extensions["lifl"].close()
