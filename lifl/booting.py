"""A gunicorn worker hears the signals that end it from its first moment on.

Why: until a new worker has set its own handlers it has its master's, and those only put a signal
into a queue that nobody reads in a worker. A function that is ended just as its worker is being
made anew would go on until its grace is over, and be killed with what it holds. So these signals
stay pending from before the fork until the worker is up. It must not import gunicorn: these are
the hooks of its configuration, ``pre_fork`` and ``post_worker_init``.
"""

from __future__ import annotations

import os
import signal

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})


def hold_signals(_server: object, _worker: object) -> None:
    """Keep them pending; in the master, which hears them again as soon as it has forked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)


def hear_signals(_worker: object = None) -> None:
    """Have what is pending delivered, and what comes."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


os.register_at_fork(after_in_parent=hear_signals)
