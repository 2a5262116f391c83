from __future__ import annotations

import os
import subprocess

import pytest

from bench.compare.vanilla import sidecar
from lifl.errors import ConfigError


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv(sidecar.SETTING, raising=False)


def test_no_proxy_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(sidecar.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ConfigError, match=r"apt-get install haproxy.*LIFL_COMPARE_QUEUE_PROXY"):
        sidecar.make("r-1", 2, tmp_path / "log")
    with pytest.raises(ConfigError, match="needs a reverse proxy"):
        sidecar.about()


def test_a_named_one_must_be_there_and_is_no_stand_in(monkeypatch, tmp_path):
    monkeypatch.setenv(sidecar.SETTING, str(tmp_path / "queue"))
    with pytest.raises(ConfigError, match="no program is there"):
        sidecar.about()
    (tmp_path / "queue").touch(mode=0o755)
    assert sidecar.about() == ("queue-proxy", "queue", "")


def test_the_stand_in_is_named(monkeypatch):
    monkeypatch.setattr(sidecar.shutil, "which", lambda *_, **__: "haproxy")
    told = subprocess.CompletedProcess([], 0, "HAProxy version 2.6.12-1 2026/10/17\n")
    monkeypatch.setattr(sidecar.subprocess, "run", lambda *_, **__: told)
    name, version, stand_in = sidecar.about()
    assert (name, version) == ("haproxy", "2.6.12-1")
    assert "queue-proxy" in stand_in


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_network_of_its_own_has_ports_of_its_own(no_leaks):
    from bench.compare.vanilla import network

    namespace = network.make()
    try:
        with network.listen(namespace) as listener:
            port = listener.getsockname()[1]
            network.connect(port, namespace).close()
            with pytest.raises(ConnectionRefusedError):
                network.connect(port)
    finally:
        os.close(namespace)
