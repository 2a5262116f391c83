"""A function that is ended while its worker is being made anew ends, and at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

# The signal comes to the first worker before it has handlers of its own.
CONF = """
import os, pathlib, signal
from functions.{function}.gunicorn_conf import *
wsgi_app = "functions.{function}.app:app"
def post_fork(server, worker):
    once = pathlib.Path({once!r})
    if once.exists():
        once.unlink()
        os.kill(os.getpid(), signal.{name})
"""


@contextmanager
def started(function: str, signame: str, folder: Path) -> Iterator[Path]:
    """Run the function with nothing around it; give its log."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    once = folder / "once"
    once.touch()
    conf = folder / "conf.py"
    conf.write_text(CONF.format(function=function, once=str(once), name=signame))
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPO),
        "PORT": str(port),
        "LIFL_NAME": function,
        "LIFL_NODE": "node-1",
        "LIFL_GATEWAY_URL": f"http://127.0.0.1:{port}",
        "LIFL_COORDINATOR_URL": "http://127.0.0.1:9",
        "LIFL_PLATFORM_SECRET": "0123456789abcdef0123456789abcdef",
        "LIFL_AGENT_SOCKET": str(folder / "agent.sock"),
        "LIFL_HOME": str(folder),
    }
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", str(conf)],
            env=env,
            cwd=folder,
            stdout=out,
            stderr=out,
        )
    try:
        yield log
        assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(10) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("signame", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("function", ["aggregator", "coordinator", "gateway"])
def test_a_signal_before_its_handlers_is_heard(function, signame, tmp_path):
    with started(function, signame, tmp_path) as log:
        deadline = time.monotonic() + 20
        while log.read_text().count("Booting worker") < 2:  # the master makes another
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
