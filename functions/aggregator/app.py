"""The entry point of the function: gunicorn imports it in its worker.

    gunicorn -c python:functions.aggregator.gunicorn_conf functions.aggregator.app:app

Why: importing this module *is* the start of the function, in an order that matters
for a cold start: the data-plane thread registers first, with nothing imported but
numpy and the store, and only then flask is, while descriptors are served already.
It must not be imported by anything but gunicorn.
"""

from __future__ import annotations

import logging
import os
import signal

from functions.aggregator.settings import AggregatorSettings
from lifl import crash

SETTLE_SECONDS = 2.0

logging.basicConfig(
    level=os.environ.get("LIFL_LOG_LEVEL", "INFO").upper(),
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
_settings = AggregatorSettings.from_env()
crash.arm()
_gunicorn = os.getppid()


def _end() -> None:
    """End the whole function, unless gunicorn's master, who would do it, is gone already."""
    if os.getppid() == _gunicorn:
        os.kill(_gunicorn, signal.SIGTERM)


_runtime = None
if _settings.domain:
    from functions.aggregator.runtime import Runtime

    _runtime = Runtime(_settings, _end)
    _runtime.start()
    _runtime.settled.wait(SETTLE_SECONDS)

from functions.aggregator.web import create_app  # noqa: E402  flask only now

app = create_app(_settings, _runtime)

if _settings.stats_port:
    from functions.aggregator.knative import StatsServer

    StatsServer(
        os.environ.get("LIFL_HOST", "127.0.0.1"),
        _settings.stats_port,
        _settings.pod_name,
        app.extensions["lifl-traffic"],
    ).start()
