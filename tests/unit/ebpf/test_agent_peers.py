from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ebpf.agent.peers import Process


def test_a_peer_is_known_until_it_ends(tmp_path: Path, no_leaks: None) -> None:
    path = tmp_path / "s"
    code = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.connect({os.fspath(path)!r}); sys.stdin.read()"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
            connection, _ = listener.accept()
            with connection:
                process = Process.of_peer(connection)
                assert (process.pid, process.uid) == (child.pid, os.getuid())
                assert not process.ended
                again = Process.find(process.pid, process.uid, process.started)
                with pytest.raises(ProcessLookupError, match="another one"):
                    Process.find(process.pid, process.uid, process.started + 1)
                process.kill()
                assert child.wait(10.0) == -signal.SIGKILL
                assert process.ended
                assert again.ended
                process.kill()  # harmless
                with pytest.raises(ProcessLookupError):
                    Process.of_peer(connection)
    with pytest.raises(ProcessLookupError):
        Process.find(process.pid, process.uid, process.started)
    process.close()
    again.close()


def test_one_that_is_gone_has_ended() -> None:
    process = Process.gone(1, 0, 0)
    assert process.ended
    process.kill()
    process.close()
