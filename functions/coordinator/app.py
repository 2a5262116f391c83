"""The entry point of the function: gunicorn imports it in its worker.

    gunicorn -c python:functions.coordinator.gunicorn_conf functions.coordinator.app:app

Why: importing this module *is* the start of the function: the store is taken over
and read, and every job goes on. It must not be imported by anything but gunicorn.
"""

from __future__ import annotations

import logging
import os

from functions.coordinator.authority import end_process
from functions.coordinator.service import Coordinator, connect_to_agent
from functions.coordinator.settings import CoordinatorSettings
from functions.coordinator.state import open_store
from functions.coordinator.web import create_app
from lifl import crash

logging.basicConfig(
    level=os.environ.get("LIFL_LOG_LEVEL", "INFO").upper(),
    format="%(asctime)s %(levelname)s %(name)s: %(message)s",
)
_settings = CoordinatorSettings.from_env()
crash.arm()
if not _settings.function.auth:
    logging.getLogger("lifl.coordinator").warning(
        "LIFL_AUTH=off: whoever reaches this port may submit and stop jobs"
    )
_coordinator = Coordinator(
    _settings,
    open_store(_settings.state_url, _settings.state_password, end_process),
    connect_to_agent(_settings.function),
)
_coordinator.start()
app = create_app(_coordinator)
