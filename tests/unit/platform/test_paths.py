from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lifl.errors import ConfigError
from lifl.platform.paths import Paths, read_json, write_json


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_home_comes_from_the_environment_or_the_user() -> None:
    assert Paths.from_env({"LIFL_HOME": "/x/y"}).home == Path("/x/y")
    default = Path("/var/lib/lifl") if os.geteuid() == 0 else Path.home() / ".lifl"
    assert Paths.from_env({}).home == default


def test_sockets_can_be_reached_by_others_and_the_rest_cannot(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "h")
    paths.create(["node-0"])
    assert mode(paths.run / "node-0") == 0o711
    assert {mode(p) for p in (paths.state, paths.logs, paths.aggregators)} == {0o700}


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    paths = Paths(tmp_path / ("x" * 100))
    with pytest.raises(ConfigError, match="too long for a UNIX socket"):
        paths.create(["node-0"])
    assert not paths.home.exists()


def test_the_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    paths.create([])
    secret = paths.secret()
    assert len(bytes.fromhex(secret)) == 32
    assert paths.secret() == secret
    assert mode(paths.state / "platform.secret") == 0o600


def test_json_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
