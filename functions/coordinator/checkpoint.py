"""A job's model versions on disk.

Why: a version that clients were told of must survive, so its files are complete and
synced before the transaction that names them, or soon after (``committer``). A model file is
a canonical safetensors document written straight from shared memory, while it is
made; an optimizer's state lies beside it as raw float32 vectors, written through a
mapping so that none is held twice. It must not know rounds or strategies.

    JOB/v000012-5e1f03aa.safetensors    JOB/v000012-5e1f03aa.m.f32

The second part names the process that wrote: a predecessor that does not know yet
that it was superseded may be making the same version in the same directory.

A model file that is not wanted any more is not removed but kept as a spare, and written
over by the version after: its blocks are on the disk and its pages in memory already, which
halves the time a version takes to become durable. Not if anybody has it open.

    JOB/spare-5e1f03aa.part
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from functions.coordinator.behind import WriteBehind
from lifl.errors import ConfigError

Floats = np.ndarray[Any, np.dtype[np.float32]]
_FILE = re.compile(r"v(\d+)(?:-\w+)?\.(?:safetensors|\w+\.f32|incoming)(?:\.part)?\Z")
MODEL = "safetensors"
"""The kind of file that a model is."""
_PART = ".part"
_SPARES = "spare*.part"


@dataclass(slots=True)
class Draft:
    """Files of a version that is being made, under temporary names."""

    directory: Path
    version: int
    writer: str = ""
    spare: Path | None = None
    _files: dict[Path, int] = field(default_factory=dict)
    _settled: list[Path] = field(default_factory=list)

    def name(self, kind: str) -> str:
        """Return the name of a file of this version."""
        return f"v{self.version:06d}{self.writer and '-' + self.writer}.{kind}"

    def write_model(self, document: memoryview) -> tuple[str, WriteBehind]:
        """Begin the model's file; return its final name and who writes ``document`` into it."""
        name = self.name(MODEL)
        if self.spare is not None:
            _take_over(self.spare, self.directory / f"{name}{_PART}")
        fd = self._create(name, truncate=False)
        if os.fstat(fd).st_size > len(document):
            os.ftruncate(fd, len(document))
        return name, WriteBehind(fd, document)

    def map_model(self, size: int) -> tuple[str, mmap.mmap]:
        """Return the model file's final name and its ``size`` bytes, to be filled."""
        return self._map(self.name("safetensors"), size)

    def map_vector(self, name: str, elements: int) -> tuple[str, Floats]:
        """Return a state vector's final file name and the vector, to be filled."""
        file, mapped = self._map(self.name(f"{name}.f32"), elements * 4)
        return file, np.frombuffer(mapped, np.float32)

    def _map(self, name: str, size: int) -> tuple[str, mmap.mmap]:
        """Map a new file; OSError if the disk has no room (writing would kill us then)."""
        fd = self._create(name)
        os.posix_fallocate(fd, 0, size)
        return name, mmap.mmap(fd, size)

    def include(self, names: Iterable[str]) -> None:
        """Have files that have their names already synced as well, by :meth:`keep`."""
        for name in names:
            path = self.directory / name
            self._files[path] = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def settle(self) -> None:
        """Give the files their names, but do not sync them: they survive this process."""
        for path in [p for p in self._files if p.suffix == _PART]:
            path.rename(path.with_suffix(""))
            self._settled.append(path.with_suffix(""))
        self.close()

    def keep(self) -> None:
        """Sync the files and give them their names; on return they survive a power cut."""
        for path, fd in self._files.items():
            os.fdatasync(fd)
            if path.suffix == _PART:
                path.rename(path.with_suffix(""))
        self.close()
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Remove what was made and not kept; what was included stays."""
        for path in (*self._settled, *(p for p in self._files if p.suffix == _PART)):
            path.unlink(missing_ok=True)
        self.close()

    def _create(self, name: str, *, truncate: bool = True) -> int:
        path = self.directory / f"{name}{_PART}"
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if truncate else 0)
        fd = os.open(path, flags, 0o600)
        self._files[path] = fd
        return fd

    def close(self) -> None:
        """Leave the files as they are."""
        for fd in self._files.values():
            with contextlib.suppress(OSError):
                os.close(fd)
        self._files.clear()


class Checkpoints:
    """One job's directory of versions; ``writer`` is in the names of those made here."""

    def __init__(self, root: Path, job: str, writer: str = "") -> None:
        self.directory = root / job
        self._writer = writer
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def draft(self, version: int) -> Draft:
        """Begin a version."""
        return Draft(self.directory, version, self._writer, self._spare)

    @property
    def _spare(self) -> Path:
        return self.directory / f"spare{self._writer and '-' + self._writer}.part"

    def path(self, name: str) -> Path:
        """Return where a file of a version lies."""
        return self.directory / name

    def read_model(self, name: str, target: memoryview) -> None:
        """Read a model's document into ``target``, which has its length.

        Raises
        ------
        ConfigError
            if the file is missing or has another length.
        """
        path = self.path(name)
        try:
            with path.open("rb", buffering=0) as f:
                if os.fstat(f.fileno()).st_size != len(target):
                    raise ConfigError(f"the checkpoint {path} is not {len(target)} bytes long")
                rest = target
                while rest:
                    rest = rest[f.readinto(rest) :]
        except FileNotFoundError:
            raise ConfigError(f"the checkpoint {path} is missing") from None

    def vectors(self, names: Mapping[str, str], elements: int) -> dict[str, Floats]:
        """Return state vectors, read-only, mapped from their files.

        ``names`` maps the vectors' names to file names.

        Raises
        ------
        ConfigError
            if a file is missing or has another length.
        """
        return {vector: self._map(self.path(file), elements) for vector, file in names.items()}

    @staticmethod
    def _map(path: Path, elements: int) -> Floats:
        try:
            with path.open("rb") as f:
                if os.fstat(f.fileno()).st_size != elements * 4:
                    raise ConfigError(f"the checkpoint {path} is not {elements} float32 long")
                return np.frombuffer(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ), np.float32)
        except FileNotFoundError:
            raise ConfigError(f"the checkpoint {path} is missing") from None

    def prune(self, oldest: int) -> None:
        """Remove the files of versions before ``oldest``; later ones may be a successor's.

        One model file becomes the spare. Those of others who wrote here go: if one still
        does, it only loses time.
        """
        for path in self.directory.glob(_SPARES):
            if path != self._spare:
                path.unlink(missing_ok=True)
        for path in self.directory.iterdir():
            match = _FILE.match(path.name)
            if not match or int(match[1]) >= oldest:
                continue
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == f".{MODEL}":
                    path.rename(self._spare)
                else:
                    path.unlink()


def _take_over(spare: Path, path: Path) -> None:
    """Give a spare file a name, to be written over, if there is one and nobody reads it.

    A gateway without the job's pool is sent a version from its file, however slowly; the
    kernel grants a write lease only on a file that nobody else has open.
    """
    try:
        spare.rename(path)
        with path.open("r+b", buffering=0) as f:
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except FileNotFoundError:
        return
    except OSError:  # it is being read, or this file system knows no leases
        path.unlink(missing_ok=True)
