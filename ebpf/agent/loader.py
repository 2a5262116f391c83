"""The kernel program and its maps: adopted, or loaded and pinned.

Why: the program comes from an object that clang made ahead of time, or is compiled by bcc
at start; what follows is the same, and what one way pinned the other may adopt: the
layout names the sources that both are made of, and every map is looked at. It must not
know what the maps mean.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ebpf.agent import compiler, libbpf, pins
from ebpf.agent.sockmap import Map, Shape, attach, open_pin, pin, possible_cpus, shape
from lifl import wire
from lifl.errors import ConfigError

_ROOT = Path(__file__).resolve().parent.parent
_INCLUDE = _ROOT / "include"
_SOURCE = _ROOT / "bpf" / "lifl_route.c"
_SOURCES = (_INCLUDE / "lifl_wire.h", _INCLUDE / "lifl_maps.h", _SOURCE)
OBJECT = _SOURCE.with_suffix(".o")
"""Where scripts/bpf-object puts the object unless told otherwise."""
_PROGRAM = "lifl_route"
_SK_MSG_VERDICT = 7  # BPF_SK_MSG_VERDICT

_HASH, _PERCPU_HASH, _PERCPU_ARRAY, _SOCKHASH, _SK_STORAGE = 1, 5, 6, 18, 24
_NO_PREALLOC = 1  # BPF_F_NO_PREALLOC
_ENDPOINTS, _GROUPS = 4096, 1024

_MAPS = {
    "sockets": Shape(_SOCKHASH, 4, 8, _ENDPOINTS, 0),
    "identities": Shape(_SK_STORAGE, 4, wire.IDENTITY.size, 0, _NO_PREALLOC),
    "endpoints": Shape(_HASH, 4, wire.ENDPOINT.size, _ENDPOINTS, 0),
    "routes": Shape(_HASH, 4, wire.ROUTE.size, _ENDPOINTS, 0),
    "groups": Shape(_HASH, 4, wire.GROUP.size, _GROUPS, _NO_PREALLOC),
    "counters": Shape(_PERCPU_HASH, 4, wire.COUNTERS.size, _ENDPOINTS, _NO_PREALLOC),
    "drops": Shape(_PERCPU_ARRAY, 4, 8, len(wire.DropReason), 0),
}
"""Every map of the program as both ways must make it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The loaded program and its maps, as descriptors that this object owns.

    ``adopted`` tells whether they were found pinned; ``pinned`` whether another
    agent can find them.
    """

    maps: Mapping[str, Map]
    program: int
    adopted: bool
    pinned: bool

    def close(self) -> None:
        """Let go of the descriptors; what is pinned stays and keeps routing."""
        for fd in (self.program, *(m.fd for m in self.maps.values())):
            os.close(fd)


def layout() -> str:
    """Return the name of this program and its maps: another text is another layout."""
    return hashlib.sha256(b"".join(p.read_bytes() for p in _SOURCES)).hexdigest()[:16]


def open_kernel(pin_dir: Path | None = None, compiled: Path | None = None) -> Kernel:
    """Adopt the maps pinned in ``pin_dir``, or load the program and pin them there.

    ``compiled`` is the object to load; None takes the one beside the source if there is
    one, else compiles. Without a directory, or where this process may not mount one,
    functions route on after this process's end, but no other agent can take over.

    Raises
    ------
    ConfigError
        when what loading needs, or the right to do it, is missing.
    """
    if pin_dir is not None:
        try:
            pins.prepare(pin_dir)
        except OSError as e:
            _log.warning("kernel state is not pinned, the next agent will start anew: %s", e)
            pin_dir = None
    if pin_dir is not None:
        found = pins.place(pin_dir, layout())
        if found.is_dir():
            return _adopt(found)
    return _build(pin_dir, compiled)


def _adopt(directory: Path) -> Kernel:
    _log.info("the kernel program pinned in %s goes on", directory)
    fds = {name: open_pin(directory / name) for name in (*_MAPS, _PROGRAM)}
    return Kernel(_maps(fds, str(directory)), fds[_PROGRAM], adopted=True, pinned=True)


def _build(pin_dir: Path | None, compiled: Path | None) -> Kernel:
    if compiled is None and OBJECT.is_file():
        compiled = OBJECT
    if compiled is not None:
        fds = libbpf.load(compiled, layout(), _MAPS, _PROGRAM)
    else:
        fds = compiler.build(_SOURCE, _INCLUDE, _MAPS, _PROGRAM)
    origin = str(compiled or "bcc")
    maps = _maps(fds, origin)
    _log.info("the kernel program is new, from %s", origin)
    try:
        attach(fds[_PROGRAM], fds["sockets"], _SK_MSG_VERDICT)
    except OSError as e:
        raise ConfigError(f"cannot attach the eBPF program: {e}") from e
    if pin_dir is not None:
        directory = pins.unfinished(pin_dir)
        for name, fd in fds.items():
            pin(fd, directory / name)
        pins.finish(directory, layout())
    return Kernel(maps, fds[_PROGRAM], adopted=False, pinned=pin_dir is not None)


def _maps(fds: Mapping[str, int], origin: str) -> dict[str, Map]:
    """Return the maps; raises ConfigError unless each is what the agent takes it for."""
    for name, wanted in _MAPS.items():
        found = shape(fds[name])
        if found != wanted:
            for fd in fds.values():
                os.close(fd)
            raise ConfigError(
                f"the eBPF map {name!r} of {origin} is {found}, this agent needs {wanted}"
            )
    cpus = possible_cpus()
    per_cpu = {_PERCPU_HASH, _PERCPU_ARRAY}
    return {
        name: Map(fds[name], wanted.value_bytes, cpus if wanted.type in per_cpu else 1)
        for name, wanted in _MAPS.items()
    }
