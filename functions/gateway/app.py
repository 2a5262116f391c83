"""The entry point of the function: gunicorn imports it in its worker.

    gunicorn -c python:functions.gateway.gunicorn_conf functions.gateway.app:app

Why: importing this module *is* the start of the function; the worker class has
patched the standard library for gevent by then. It must not be imported by
anything but gunicorn.
"""

from __future__ import annotations

import logging
import os

from functions.gateway.gateway import Gateway
from functions.gateway.settings import GatewaySettings
from functions.gateway.web import create_app
from lifl import crash

logging.basicConfig(
    level=os.environ.get("LIFL_LOG_LEVEL", "INFO").upper(),
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
crash.arm()
_gateway = Gateway(GatewaySettings.from_env())
app = create_app(_gateway)
_gateway.start()
