from __future__ import annotations

import tomllib
from pathlib import Path

from bench.compare.flower.system import APP
from bench.compare.flower.venv import settings


def test_the_app_names_files_that_are_there():
    config = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    for reference in config["components"].values():
        module, _, attribute = reference.partition(":")
        text = (APP / f"{module.replace('.', '/')}.py").read_text()
        assert f"\n{attribute} = " in text
    assert set(config["config"]) == {"told", "document", "clients"}


def test_flowers_programs_ask_nobody_outside():
    given = settings(Path("/somewhere"))
    assert given["FLWR_TELEMETRY_ENABLED"] == "0"
    assert given["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert given["FLWR_HOME"] == "/somewhere"
