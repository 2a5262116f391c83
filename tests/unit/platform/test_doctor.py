from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from lifl.platform import doctor
from lifl.platform.local import closed_paths


def check(ok: bool, needed_for: str) -> doctor.Check:
    return doctor.Check("x", ok, "detail", "fix", needed_for)


def test_only_what_ebpf_needs_decides() -> None:
    assert doctor.ebpf_ready([check(True, "ebpf"), check(False, "redis")])
    assert not doctor.ebpf_ready([check(False, "ebpf"), check(True, "redis")])


def test_every_check_that_fails_names_a_fix_and_the_rest_is_json() -> None:
    found = doctor.checks()
    assert all(c.fix for c in found if not c.ok)
    assert json.loads(json.dumps(doctor.to_json(found)))["ebpf"] == doctor.ebpf_ready(found)
    assert {"capabilities", "bcc", "kernel headers", "job isolation"} <= {c.name for c in found}


def test_a_missing_part_means_the_socket_data_plane_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "checks", lambda: [check(False, "ebpf"), check(False, "redis")])
    assert doctor.default_dataplane() == ("socket", "x: detail")
    monkeypatch.setattr(doctor, "checks", lambda: [check(True, "ebpf")])
    assert doctor.default_dataplane() == ("ebpf", "")


def test_a_refused_system_call_asks_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_try_bpf", lambda *_: errno.EPERM)
    assert "root" in doctor._sockhash().fix
    monkeypatch.setattr(doctor, "_try_bpf", lambda *_: errno.EINVAL)
    assert "CONFIG_NET_SOCK_MSG" in doctor._sk_msg().fix


def test_closed_paths_names_the_directory_in_the_way(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "open"
    inner.mkdir(parents=True)
    (tmp_path / "closed").chmod(0o700)
    inner.chmod(0o755)
    found = closed_paths([inner])
    assert tmp_path / "closed" in found
    assert inner not in found
