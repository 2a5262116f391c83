"""The entry point of the function: gunicorn imports it in its worker.

    gunicorn -c python:functions.gateway.gunicorn_conf functions.gateway.app:app

Why: importing this module *is* the start of the function; the worker class has
patched the standard library for gevent by then. It must not be imported by
anything but gunicorn.
"""

from __future__ import annotations

import gc
import logging
import os

import gevent

from functions.gateway.gateway import Gateway
from functions.gateway.settings import GatewaySettings
from functions.gateway.web import create_app
from lifl import crash

COLLECT_SECONDS = 60.0

logging.basicConfig(
    level=os.environ.get("LIFL_LOG_LEVEL", "INFO").upper(),
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
crash.arm()
_gateway = Gateway(GatewaySettings.from_env())
app = create_app(_gateway)
_gateway.start()


def _collect_garbage() -> None:
    """Collect all garbage now and then instead of whenever many requests have come.

    With thousands of parked polls a full collection stops everything for more
    than 0.1 s; left alone, Python would do one in every wave of polls.
    """
    while True:
        gevent.sleep(COLLECT_SECONDS)
        gc.collect()


gc.freeze()  # what is loaded by now stays
gc.set_threshold(10_000, 20, 1_000_000)
gevent.spawn(_collect_garbage)
