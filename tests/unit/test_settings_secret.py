"""A secret comes from the environment or from a file, and is never quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifl.errors import ConfigError
from lifl.settings import FunctionSettings, password, secret


def test_from_variable_file_or_neither(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("00ff\n")
    assert secret({"KEY": "00ff"}, "KEY") == b"\x00\xff"
    assert secret({"KEY_FILE": str(file)}, "KEY") == b"\x00\xff"
    assert secret({}, "KEY") == b""
    env = {"LIFL_PLATFORM_SECRET_FILE": str(file)}
    assert FunctionSettings.from_env(env).platform_secret == b"\x00\xff"


def test_refused_without_showing_it(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("topsecret")
    for env in ({"KEY": "topsecret"}, {"KEY_FILE": str(file)}):
        with pytest.raises(ConfigError, match="not a hexadecimal key") as caught:
            secret(env, "KEY")
        assert "topsecret" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        secret({"KEY_FILE": str(tmp_path / "none")}, "KEY")
    with pytest.raises(ConfigError, match="not both"):
        secret({"KEY": "00", "KEY_FILE": str(file)}, "KEY")


def test_a_password_is_text_without_the_file_s_newline(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" two words \r\n")
    assert password({"P_FILE": str(file)}, "P") == " two words "
    assert password({"P": " two words "}, "P") == " two words "
    assert password({}, "P") == ""
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not text"):
        password({"P_FILE": str(file)}, "P")
