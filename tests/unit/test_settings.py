"""Settings: defaults, conversion, and errors that name the variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifl.errors import ConfigError
from lifl.settings import FunctionSettings, boolean, dataplane, read


def test_defaults_are_a_local_platform() -> None:
    settings = FunctionSettings.from_env({})
    assert settings.auth
    assert settings.node == "node-0"
    assert settings.agent_socket == Path("/run/lifl/agent.sock")


def test_what_a_pod_was_not_told_reads_as_empty() -> None:
    """The downward API sets a variable of an annotation that is missing, to nothing."""
    settings = FunctionSettings.from_env({"LIFL_NAME": "", "LIFL_REGISTRATION": ""})
    assert (settings.name, settings.registration) == ("function", "")
    settings = FunctionSettings.from_env({"LIFL_NAME": "a-agg-3", "LIFL_REGISTRATION": " x.y.z\n"})
    assert (settings.name, settings.registration) == ("a-agg-3", "x.y.z")


def test_values_are_converted() -> None:
    settings = FunctionSettings.from_env(
        {"LIFL_AUTH": "off", "LIFL_PLATFORM_SECRET": "00ff", "LIFL_COORDINATOR_URL": "http://c/"}
    )
    assert (settings.auth, settings.platform_secret) == (False, b"\x00\xff")
    assert settings.coordinator_url == "http://c"


def test_a_wrong_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="LIFL_AUTH"):
        FunctionSettings.from_env({"LIFL_AUTH": "perhaps"})
    with pytest.raises(ConfigError, match="LIFL_X"):
        read({}, "LIFL_X", int)


@pytest.mark.parametrize(("word", "value"), [("on", True), ("No", False), ("1", True)])
def test_booleans(word: str, value: bool) -> None:
    assert boolean(word) is value


def test_data_planes() -> None:
    assert dataplane("ebpf") == "ebpf"
    with pytest.raises(ValueError, match="ebpf or socket"):
        dataplane("xdp")
