"""Programs for the tests that need users of their own: an interpreter for all, and attackers.

Why: as root, each job's functions run as a user of their own, if that user can reach the
interpreter and the libraries. Where the tests' own lie below /root, the system's interpreter
with the same libraries stands in for them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lifl.platform.local import CHECKOUT, closed_paths, program_paths

SOURCE = Path(__file__).with_name("attacker.py")
NOBODY = 65534


def python_for_all(folder: Path) -> Path | None:
    """Return an interpreter with this one's libraries that every user can run; None if none."""
    if not closed_paths(program_paths()):
        return Path(sys.executable)
    libraries = Path(sysconfig.get_path("purelib"))
    system = Path(shutil.which("python3", path="/usr/bin:/bin") or "/nowhere")
    version = "{}.{}".format(*sys.version_info)
    if not system.exists() or version_of(system) != version:
        return None
    if closed_paths([libraries, CHECKOUT / "functions", system]):
        return None
    place = folder / "lib" / f"python{version}" / "site-packages"
    place.mkdir(parents=True)
    (place / "tests.pth").write_text(f"{libraries}\n")
    (folder / "pyvenv.cfg").write_text(f"home = {system.parent}\n")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(system)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return python


def version_of(python: Path) -> str:
    """Return an interpreter's version, "3.11"."""
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_as(uid: int, python: Path, folder: Path) -> Path:
    """Return a program that runs ``python`` as ``uid``, which it gives LIFL_HOME to."""
    script = folder / f"python-as-{uid}"
    ids = f"--reuid {uid} --regid {uid} --clear-groups"
    script.write_text(
        f'#!/bin/sh\nchown -R {uid}:{uid} "$LIFL_HOME"\nexec setpriv {ids} -- {python} "$@"\n'
    )
    script.chmod(0o755)
    return script


class Attacker:
    """A process that does what it is told; see ``attacker.py``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, do: str, **request: Any) -> Any:
        """Have something tried; return what it met."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"do": do, **request}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, f"the attacker ended with {self._process.wait()}"
        return json.loads(line)


@contextlib.contextmanager
def attacker(uid: int, python: Path, wrapper: Sequence[str] = ()) -> Iterator[Attacker]:
    """Run an attacker as ``uid``; ``wrapper`` is a command that runs it with less rights."""
    other = uid != os.geteuid()
    process = subprocess.Popen(
        [*wrapper, python, "-c", SOURCE.read_text()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        user=uid if other else None,
        group=uid if other else None,
        extra_groups=[] if other else None,
    )
    with process:
        try:
            yield Attacker(process)
        finally:
            process.kill()
