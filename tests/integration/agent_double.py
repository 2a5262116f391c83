"""A function for tests of the agent: registers, then does what it is told line by line.

Run as a program: ``agent_double.py SOCKET KIND NAME JOB UID [gevent]``. Each line of standard
input is a JSON command ``{"do": ...}``; each answer is a JSON line. With TEST_CGROUP it is a
process of that cgroup (a directory); LIFL_REGISTRATION is the token it shows.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from lifl.dataplane.registration import Registration
from lifl.errors import LiflError
from lifl.store import Seal, SlotKind, SlotRef
from lifl.wire import Descriptor, Opcode


class Double:
    """Keeps the inputs it took and sums their first element."""

    def __init__(self, registration: Registration) -> None:
        self.reg = registration
        self.inputs: list[SlotRef] = []
        self.cover: list[int] = []
        self.output: SlotRef | None = None

    def do_hello(self) -> dict[str, Any]:
        return {"endpoint": self.reg.endpoint, "lane": self.reg.lane, "pid": os.getpid()}

    def do_ready(self) -> dict[str, Any]:
        self.reg.ready()
        return {}

    def do_role(self) -> dict[str, Any]:
        return self.reg.pool.read_role(self.reg.lane)._asdict()

    def do_recv(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return what comes; WAKEs are left out."""
        deadline = time.monotonic() + timeout
        got: list[Descriptor] = []
        while not got and (left := deadline - time.monotonic()) > 0:
            got = [d for d in self.reg.channel.recv(left) if d.opcode is not Opcode.WAKE]
        return {"descriptors": [list(d) for d in got]}

    def do_take(self, slot: int, generation: int, output: bool = True) -> dict[str, Any]:
        pool, ref = self.reg.pool, SlotRef(slot, generation)
        entry = pool.take(ref, self.reg.endpoint)
        self.inputs.append(ref)
        self.cover += [int(s) for s in pool.cover(slot)]
        if output and self.output is None:
            self.output = pool.reserve(SlotKind.PARTIAL, self.reg.endpoint, entry.assignment)
            pool.floats(self.output.slot)[0] = 0
        if self.output is not None:
            pool.floats(self.output.slot)[0] += pool.floats(slot)[0]
        return {"assignment": entry.assignment}

    def do_seal(self, send: bool = True) -> dict[str, Any]:
        assert self.output is not None
        pool, ref = self.reg.pool, self.output
        seal = Seal(
            serial=0,
            weight=float(len(self.cover)),
            doc_start=pool.geometry.meta_bytes,
            doc_bytes=pool.geometry.float_bytes,
            cover=self.cover,
            inputs=self.inputs,
        )
        pool.seal(ref, self.reg.endpoint, seal)
        entry = pool.entry(ref.slot)
        self.inputs, self.cover, self.output = [], [], None
        if send:
            self.reg.channel.send(Descriptor(Opcode.OBJECT, *ref, entry.assignment, entry.pages))
        return {"slot": ref.slot, "generation": ref.generation}

    def do_scribble(self, value: float) -> dict[str, Any]:
        """Write to the output as a function that does not know that it was fenced."""
        assert self.output is not None
        self.reg.pool.floats(self.output.slot)[0] = value
        return {}

    def do_resume(self) -> dict[str, Any]:
        deadline = time.monotonic() + 5.0
        while not self.reg.lost():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        self.reg.resume(timeout=10.0)
        return {}

    def do_reopen(self) -> dict[str, Any]:
        """Close what is void and register anew, as functions do when they are fenced."""
        reg = self.reg
        reg.close()
        self.inputs, self.cover, self.output = [], [], None
        self.reg = register(str(reg.path), reg.kind, reg.name, reg.job, timeout=10.0)
        self.reg.ready()
        return self.do_hello()

    def do_hold_table(self) -> dict[str, Any]:
        self.reg.pool.lock.__enter__()
        return {}


def patch_all() -> None:
    """Be a gevent process, as the gateway's workers are."""
    from gevent import monkey

    monkey.patch_all()


def register(path: str, kind: str, name: str, job: str, *, timeout: float) -> Registration:
    token = os.environ.get("LIFL_REGISTRATION", "")
    return Registration.open(path, kind=kind, name=name, domain=job, token=token, timeout=timeout)


def main() -> None:
    path, kind, name, job, uid, *gevent = sys.argv[1:]
    if "TEST_CGROUP" in os.environ:
        (Path(os.environ["TEST_CGROUP"]) / "cgroup.procs").write_text(str(os.getpid()))
    if gevent:
        patch_all()
    os.setuid(int(uid))  # only now: another user may not be able to read the interpreter
    try:
        double = Double(register(path, kind, name, job, timeout=2.0))
    except LiflError as e:
        print(json.dumps({"error": type(e).__name__, "detail": str(e)}), flush=True)
        return
    print(json.dumps(double.do_hello()), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(double, "do_" + command.pop("do"))(**command)
        except LiflError as e:
            answer = {"error": type(e).__name__, "detail": str(e)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
