"""How gunicorn runs a gateway; :mod:`functions.gateway.app` has the command.

Why: one worker, since the pools and the parked polls belong to one process; its
class is :mod:`functions.gateway.worker`'s. Thousands of parked polls are
connections, hence the high limits. The control socket is off: it would start an
event loop nobody asked for.
"""

from __future__ import annotations

import os
from typing import Any

from functions.gateway.buffers import hold
from lifl import congestion
from lifl.booting import hear_signals, hold_signals
from lifl.keepalive import KEEPALIVE_SECONDS
from lifl.limits import allow_most_files

allow_most_files()  # the worker inherits it

wsgi_app = "functions.gateway.app:app"
host = os.environ.get("LIFL_HOST", "127.0.0.1")
bind = f"{host}:{os.environ.get('PORT', '8080')}"
workers = 1
worker_class = "functions.gateway.worker.GatewayWorker"
worker_connections = int(os.environ.get("LIFL_CONNECTIONS", "16384"))
worker_tmp_dir = "/dev/shm"
backlog = 4096
control_socket_disable = True
keepalive = KEEPALIVE_SECONDS
timeout = 120
graceful_timeout = 30
pre_fork = hold_signals
post_worker_init = hear_signals


def when_ready(server: Any) -> None:
    """Let accepted connections inherit a large receive buffer, and no pacing within a machine."""
    for listener in server.LISTENERS:
        hold(listener.sock)
        for option in congestion.options(host):
            listener.sock.setsockopt(*option)
