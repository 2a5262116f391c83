"""A gateway process between a fake coordinator and a fake agent, for tests.

The gateway is the real program under gunicorn; the pool is a real pool, which
the test sees from the agent's side. The fakes do what the contract says and
record what they are asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from lifl import naming
from lifl.dataplane import framing
from lifl.store import Pool, PoolGeometry
from lifl.update import Schema, TensorSpec, iter_document
from lifl.wire import Descriptor

JOB = "digits"
SECRET = "11" * 32
KEY = bytes(range(32))
SMALL = Schema(
    [
        TensorSpec("conv.weight", "F32", (8, 3, 3)),
        TensorSpec("bn.num_batches_tracked", "I64", ()),
        TensorSpec("fc.bias", "F32", (10,)),
    ]
)


def schema_of(megabytes: float, tensors: int = 60) -> Schema:
    """Return a float32 schema of about ``megabytes`` (10^6 bytes) and one integer tensor."""
    each = int(megabytes * 1e6 / 4 / tensors)
    specs = [TensorSpec(f"layer{i:03}.weight", "F32", (each,)) for i in range(tensors)]
    return Schema([*specs, TensorSpec("bn.num_batches_tracked", "I64", ())])


def arrays_of(schema: Schema, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random arrays that fit ``schema``."""
    rng = np.random.default_rng(seed)
    found = {}
    for s in schema.tensors:
        if s.is_float:
            found[s.name] = rng.standard_normal(s.shape, np.float32)
        else:
            found[s.name] = np.asarray(seed, np.int64).reshape(s.shape)
    return found


def document(schema: Schema, seed: int = 0) -> bytes:
    """Return a canonical update as one bytes object."""
    return b"".join(iter_document(arrays_of(schema, seed), schema))


def geometry_of(schema: Schema, slots: int) -> PoolGeometry:
    """Return a pool geometry for ``schema``."""
    page = 4096
    meta = -(-(schema.float_start + 16 * page) // page) * page
    return PoolGeometry(slots, -(-schema.float_bytes // page) * page, meta)


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class FakeCoordinator:
    """Answers the internal API from ``view``; ``rules`` may replace an answer."""

    def __init__(self, schema: Schema, node: str, gateway_url: str, *, port: int = 0) -> None:
        self.view: dict[str, Any] = {
            "job": JOB,
            "domain_uid": 0,
            "state": "running",
            "round": 1,
            "assignment": 1,
            "version": 0,
            "phase": "open",
            "schema": schema.to_json(),
            "auth_key": KEY.hex(),
            "selected": None,
            "accepted": [],
            "lost": [],
            "clients": {},
            "upload": {node: gateway_url},
            "model": None,
            "deadline": None,
            "plan": None,
            "client_config": {"lr": 0.1},
        }
        self.views = [self.view]
        self.rev = 1
        self.calls: list[tuple[str, str, Any]] = []
        self.claims: dict[int, dict[str, Any]] = {}
        self.rules: dict[str, Callable[[str, str, Any], tuple[int, Any] | None]] = {}
        self._changed = threading.Condition()
        self._serial = 100
        self._connections: list[socket.socket] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                asked = json.loads(raw) if raw.startswith(b"{") else raw
                status, told = fake.answer(self.command, self.path, asked)
                payload = json.dumps(told).encode() if status != 204 else b""
                head = [f"HTTP/1.1 {status} X", "Content-Type: application/json"]
                if status == 204:
                    head.append(f"{naming.HEADER_CLAIM}: {told['serial']}")
                head += [f"Content-Length: {len(payload)}", "", ""]
                with contextlib.suppress(ConnectionError):
                    self.wfile.write("\r\n".join(head).encode() + payload)

            do_GET = do_POST = do_PUT = do_DELETE = do

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 1024

            def handle_error(self, *_: object) -> None:
                pass

            def get_request(self) -> tuple[socket.socket, Any]:
                accepted = super().get_request()
                fake._connections.append(accepted[0])
                return accepted

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True, name="coordinator").start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def bump(self, **changes: Any) -> None:
        """Change the view and tell the watchers."""
        with self._changed:
            self.view.update(changes)
            self.rev += 1
            self._changed.notify_all()

    def asked(self, method: str, start: str) -> list[Any]:
        """Return the payloads of the calls whose path starts so."""
        return [p for m, path, p in self.calls if m == method and path.startswith(start)]

    def answer(self, method: str, path: str, asked: Any) -> tuple[int, Any]:
        where = urlsplit(path).path
        if where != "/internal/v1/watch":
            self.calls.append((method, path, asked))
        for start, rule in self.rules.items():
            if f"{method} {where}".startswith(start):
                told = rule(method, path, asked)
                if told is not None:
                    return told
        if where == "/internal/v1/watch":
            return self._watch(parse_qs(urlsplit(path).query))
        if where == "/internal/v1/claims":
            return self._claim(asked)
        if where == "/internal/v1/updates":
            return self._update(asked)
        if where.startswith("/internal/v1/claims/") and where.endswith("/sealed"):
            return self._sealed(int(where.split("/")[-2]), asked)
        if method == "DELETE":
            self.claims.pop(int(where.split("/")[-1]), None)
        return 200, {"ok": True}

    def _watch(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        deadline = time.monotonic() + float(query["wait"][0])
        with self._changed:
            while self.rev <= int(query["since"][0]) and time.monotonic() < deadline:
                self._changed.wait(deadline - time.monotonic())
            return 200, {"rev": self.rev, "jobs": json.loads(json.dumps(self.views)), "nodes": []}

    def _claim(self, asked: dict[str, Any]) -> tuple[int, Any]:
        with self._changed:
            for serial, claim in self.claims.items():
                if claim["client"] == asked["client"] and "digest" in claim:
                    told = {"duplicate": True, "claim": serial, "state": "sealed"}
                    return 200, {**told, "digest": claim["digest"]}
            if asked["round"] != self.view["round"]:
                return 409, {"code": "wrong-round", "detail": "another round", "status": 409}
            self._serial += 1
            self.claims[self._serial] = asked
            return 201, {"claim": self._serial, "assignment": self.view["assignment"]}

    def _update(self, asked: dict[str, Any]) -> tuple[int, Any]:
        status, told = self._claim(asked)
        return (204, {"serial": told["claim"]}) if status == 201 else (status, told)

    def _sealed(self, serial: int, asked: dict[str, Any]) -> tuple[int, Any]:
        with self._changed:
            if serial not in self.claims:
                return 409, {"code": "claim-gone", "detail": "gone", "status": 409}
            self.claims[serial].update(asked)
        return 204, {"serial": serial}


class FakeAgent:
    """Hands out one pool and relay channels that accept every descriptor."""

    def __init__(self, path: Path, pool: Pool) -> None:
        self.path = path
        self.pool = pool
        self.sent: queue.Queue[Descriptor] = queue.Queue()
        self.dispatched: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ends: list[socket.socket] = []
        self._endpoint = 6
        self.inbox: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True, name="agent").start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._ends.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (message := framing.receive(sock)) is not None:
                if message.body["op"] == "register":
                    self._register(sock)
                elif message.body["op"] == "dispatch":
                    self.dispatched.put(message.body)

    def _register(self, sock: socket.socket) -> None:
        self._endpoint += 1
        tx, agent_tx = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        rx, agent_rx = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (agent_tx, agent_rx):  # gevent makes the shared file descriptions non-blocking
            end.settimeout(3600)
        self._ends += [agent_tx, agent_rx]
        self.inbox = agent_rx
        body = {
            "ok": True,
            "endpoint": self._endpoint,
            "lane": self._endpoint % 64,
            "domain": 2,
            "dataplane": "socket",
        }
        ends = (tx, rx, agent_tx, agent_rx)
        framing.send(sock, body, (self.pool.fd, *(s.fileno() for s in ends)))
        tx.close()
        rx.close()
        threading.Thread(target=self._route, args=(agent_tx,), daemon=True).start()

    def _route(self, end: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while raw := end.recv(64):
                self.sent.put(Descriptor.unpack(raw[4:]))
                end.send(struct.pack("<II", *struct.unpack("<I", raw[:4]), 0))

    def inject(self, descriptor: Descriptor) -> None:
        """Hand the gateway a descriptor."""
        assert self.inbox is not None
        self.inbox.send(descriptor.pack())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for s in self._ends:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()
        self.path.unlink(missing_ok=True)


class GatewayKit:
    """The gateway process with its fakes."""

    def __init__(
        self,
        folder: Path,
        schema: Schema = SMALL,
        *,
        slots: int = 8,
        node: str = "node-0",
        auth: bool = False,
        **env: str,
    ) -> None:
        self.node = node
        self.schema = schema
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.pool = Pool.create(
            f"test-{self.port}", geometry_of(schema, slots), prefault_slots=slots
        )
        self.agent = FakeAgent(folder / f"{node}.sock", self.pool)
        self.coordinator = FakeCoordinator(schema, node, self.url)
        self.log = folder / f"{node}.log"
        self._env = {
            **os.environ,
            "LIFL_NODE": node,
            "LIFL_NAME": f"gateway-{node}",
            "LIFL_AGENT_SOCKET": str(self.agent.path),
            "LIFL_COORDINATOR_URL": self.coordinator.url,
            "LIFL_GATEWAY_URL": self.url,
            "LIFL_PLATFORM_SECRET": SECRET,
            "LIFL_AUTH": "on" if auth else "off",
            "PORT": str(self.port),
            "OPENBLAS_NUM_THREADS": "1",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, attached: bool = True) -> None:
        command = [sys.executable, "-m", "gunicorn", "-c", "python:functions.gateway.gunicorn_conf"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self._env,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        await_true(self._ready, 20, self.log.read_text)
        if attached:
            await_true(
                lambda: self.coordinator.asked("POST", f"/internal/v1/nodes/{self.node}/inv")
            )

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except ConnectionError:  # a killed predecessor's socket
            return False

    def get(self, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        return self.request("GET", path, headers=headers)

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        """Make one request on a connection of its own; status 0 if nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers
        except ConnectionRefusedError:
            return 0, b"", http.client.HTTPMessage()
        finally:
            connection.close()

    def publish(self, **changes: Any) -> None:
        """Change the coordinator's view and wait until the gateway knows (without auth)."""
        mark = self.coordinator.rev
        self.coordinator.bump(**changes, client_config={"mark": mark})
        path = f"/v1/jobs/{JOB}/rounds/current?client=kit"
        await_true(lambda: json.loads(self.get(path)[1])["client_config"].get("mark") == mark)

    def post(
        self, body: Any, client: str = "c1", round_number: int = 1, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Post an update; header names with ``_`` for ``-``."""
        fields = {"LIFL-Client": client, "LIFL-Num-Samples": "10"}
        fields |= {k.replace("_", "-"): v for k, v in headers.items()}
        path = f"/v1/jobs/{JOB}/rounds/{round_number}/updates"
        status, raw, _ = self.request("POST", path, body, fields)
        return status, json.loads(raw)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def kill(self) -> None:
        """SIGKILL the whole gateway (master and worker)."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def terminate(self, timeout: float = 20) -> int:
        """SIGTERM, and return the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(timeout)
        self.process = None
        return status

    def worker_pid(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def close(self) -> None:
        if self.process is not None:
            self.kill()
        self.coordinator.close()
        self.agent.close()
        self.pool.close()


@contextlib.contextmanager
def gateway(folder: Path, schema: Schema = SMALL, **options: Any) -> Iterator[GatewayKit]:
    """Run a gateway with its fakes."""
    kit = GatewayKit(folder, schema, **options)
    try:
        kit.start()
        yield kit
    finally:
        kit.close()


def await_true(
    condition: Callable[[], Any], seconds: float = 10, why: Callable[[], str] = lambda: ""
) -> None:
    """Wait until ``condition()`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true within {seconds} s; {why()}"
        time.sleep(0.01)
