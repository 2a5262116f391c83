from __future__ import annotations

import subprocess
import sys

import pytest

from bench.compare.crew import ROOT
from bench.compare.peer import Venv, await_holders, end, tail
from bench.compare.wire import Wire, pair


class Ends:
    def __init__(self, number: int) -> None:
        pairs = [pair(f"client {i}") for i in range(number)]
        self.mine = [mine for mine, _ in pairs]
        self.theirs = [Wire(fd) for _, fd in pairs]

    def close(self) -> None:
        for wire in (*self.mine, *self.theirs):
            wire.close()


@pytest.fixture
def ends():
    made = Ends(4)
    yield made
    made.close()


def test_holders_are_those_who_said_so(ends):
    ends.theirs[2].tell(ready=True)
    ends.theirs[0].tell(ready=True)
    assert sorted(await_holders(ends.mine[:3], ends.mine[3], 2, 5.0)) == [0, 2]


def test_too_few_holders_is_a_timeout(ends):
    ends.theirs[1].tell(ready=True)
    with pytest.raises(TimeoutError, match="only 1 of 2"):
        await_holders(ends.mine[:3], ends.mine[3], 2, 0.01)


def test_a_failing_client_or_server_ends_the_waiting(ends):
    ends.theirs[1].tell(error="out of memory")
    with pytest.raises(RuntimeError, match="client 1: out of memory"):
        await_holders(ends.mine[:3], ends.mine[3], 2, 5.0)
    ends.theirs[3].tell(ended=1.0)
    with pytest.raises(RuntimeError, match="before it began"):
        await_holders(ends.mine[:3], ends.mine[3], 2, 5.0)


def test_a_peer_that_is_not_installed_says_how_to_install_it():
    venv = Venv("nobody", "nothing")
    assert venv.version is None
    assert venv.why_missing() == "nobody is not installed; scripts/peers nobody installs it"
    settings = venv.settings(MORE="1")
    assert settings["PATH"].startswith(f"{venv.programs}:")
    assert settings["OPENBLAS_NUM_THREADS"] == settings["MORE"] == "1"


def test_a_process_is_ended(no_leaks):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    end(process)
    assert process.returncode == -15
    process.stdin.close()


def test_the_tail_of_a_log(tmp_path):
    assert tail(tmp_path / "missing") == "(no log)"
    (tmp_path / "log").write_text("x" * 5000 + "last words")
    assert tail(tmp_path / "log").endswith("last words")
    assert len(tail(tmp_path / "log")) == 2000


def test_the_script_knows_its_peers():
    done = subprocess.run(
        [ROOT / "scripts" / "peers", "nobody"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "there is no peer 'nobody'" in done.stderr
    for name in ("flower", "nvflare"):
        assert name in done.stderr
