"""The admin operations over TLS: the controller is served, and nobody else."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebpf.agent.guests import LIMIT, listener
from ebpf.agent.remote import RemoteAdmin
from lifl.dataplane import framing, streams
from lifl.dataplane.admin import AgentAdmin
from lifl.dataplane.tls import (
    AGENT_NAME,
    CONTROLLER_NAME,
    Certificates,
    agent_context,
    controller_context,
)
from lifl.errors import ConfigError, Unavailable, WireError
from lifl.topology import Level, Plan, Role, Timing

WAIT = 10.0


class Loop:
    """Stands for the agent's event loop: a UNIX admin socket that answers what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(os.fspath(path))
        self._listening.listen()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self._connections.append(sock)
                self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, WireError), sock:
            while (message := framing.receive(sock)) is not None:
                self.asked.append(message.body)
                if message.body.get("op") == "info":
                    framing.send(sock, {"ok": True, "node": "n1", "pid": len(self._connections)})
                elif message.body.get("op") == "counters":
                    framing.send(sock, {"ok": True, "events": "x" * 150_000})
                else:
                    framing.send(sock, {"ok": False, "detail": "no such job"})

    def drop(self) -> None:
        """End every connection, as an agent that was restarted."""
        for sock in self._connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self.drop()
        for thread in self._threads:
            thread.join()
        self._listening.close()


class World:
    """An authority, an agent that serves, and how to come as somebody."""

    def __init__(self, tmp_path: Path, authority: Any) -> None:
        self.tmp = tmp_path
        self.authority = authority
        self.loop = Loop(tmp_path / "admin.sock")
        self.tls = tmp_path / "tls"
        self.certificates = Certificates(self.tls, agent_context)
        self.remote = RemoteAdmin(
            listener("127.0.0.1", 0),
            self.certificates.context,
            self.loop.path,
            handshake=1.0,
            request=1.0,
        )
        authority.write(self.tls, AGENT_NAME)
        self.remote.start()
        self._open: list[AgentAdmin] = []

    def context(self, *names: str, authority: Any = None, **options: Any) -> ssl.SSLContext:
        made = (authority or self.authority).write(self.tmp / "client", *names, **options)
        context = controller_context(made)
        context.load_verify_locations(self.tls / "ca.crt")
        return context

    def admin(self, context: ssl.SSLContext | None = None) -> AgentAdmin:
        context = context or self.context(CONTROLLER_NAME)
        admin = AgentAdmin.remote("127.0.0.1", self.remote.port, context, timeout=WAIT)
        self._open.append(admin)
        return admin

    def plain(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.remote.port), WAIT)

    def raw(self) -> ssl.SSLSocket:
        """Come as the controller, to say what no controller says."""
        context = self.context(CONTROLLER_NAME)
        return context.wrap_socket(self.plain(), server_hostname=AGENT_NAME)

    def close(self) -> None:
        for admin in self._open:
            admin.close()
        self.remote.close()
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path, new_authority: Callable[[], Any], no_leaks: None) -> Iterator[World]:
    made = World(tmp_path, new_authority())
    yield made
    made.close()


def test_the_controller_is_served(world: World) -> None:
    admin = world.admin()
    assert admin.info()["node"] == "n1"
    assert len(admin.counters()["events"]) == 150_000
    with pytest.raises(ConfigError, match="no such job"):
        admin.close_assignment("digits", 1)
    assert [a["op"] for a in world.loop.asked] == ["info", "counters", "close_assignment"]
    assert admin.info()["pid"] == 1, "one connection serves all"


def test_what_is_said_is_encrypted_by_the_latest_tls(world: World) -> None:
    with world.raw() as sock:
        assert sock.version() == "TLSv1.3"
        assert sock.session is None or not sock.session.has_ticket


def test_tls_1_2_is_enough_and_nothing_older(world: World) -> None:
    context = world.context(CONTROLLER_NAME)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert world.admin(context).info()["node"] == "n1"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with world.plain() as sock, pytest.raises(OSError):
        old.wrap_socket(sock)


def test_a_restarted_loop_is_found_again(world: World) -> None:
    admin = world.admin()
    assert admin.info()["pid"] == 1
    world.loop.drop()
    assert admin.info()["pid"] == 2


def test_the_agent_must_be_one(world: World, new_authority: Callable[[], Any]) -> None:
    world.authority.write(world.tls, CONTROLLER_NAME)
    with pytest.raises(Unavailable, match="Hostname mismatch"):
        world.admin().info()
    stranger = new_authority().write(world.tmp / "other", CONTROLLER_NAME)
    world.authority.write(world.tls, AGENT_NAME)
    with pytest.raises(Unavailable, match="certificate verify failed"):
        world.admin(controller_context(stranger)).info()
    assert world.loop.asked == []


@pytest.mark.parametrize(
    "names", [(AGENT_NAME,), (), ("lifl-controller.evil", "xlifl-controller"), ("*", "lifl-*")]
)
def test_another_certificate_of_the_authority_is_refused(
    world: World, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    admin = world.admin(world.context(*names, common=CONTROLLER_NAME))
    with pytest.raises(ConfigError, match="serves lifl-controller only"):
        admin.info()
    assert world.loop.asked == []
    assert "not for lifl-controller" in caplog.text


def test_an_expired_certificate_is_refused(world: World) -> None:
    admin = world.admin(world.context(CONTROLLER_NAME, age=3))
    with pytest.raises(Unavailable, match="expired"):
        admin.info()
    early = world.admin(world.context(CONTROLLER_NAME, age=-3))
    with pytest.raises(Unavailable):
        early.info()
    assert world.loop.asked == []


def test_another_authoritys_certificate_is_refused(
    world: World, new_authority: Callable[[], Any]
) -> None:
    context = world.context(CONTROLLER_NAME, authority=new_authority())
    with pytest.raises(Unavailable):
        world.admin(context).info()
    assert world.loop.asked == []


def test_no_certificate_is_refused(world: World) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(world.tls / "ca.crt")
    with pytest.raises(Unavailable, match="certificate required"):
        world.admin(context).info()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Unavailable):
        world.admin(context).info()
    assert world.loop.asked == []


def test_no_session_is_resumed(world: World) -> None:
    """The certificate would not be verified again."""
    context = world.context(CONTROLLER_NAME)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(world.plain(), server_hostname=AGENT_NAME) as first:
        streams.send(first, framing.encode({"op": "info"}))
        assert streams.receive(first, WAIT, idle=WAIT), "now the agent has the session as well"
        plain, session = world.plain(), first.session
        with context.wrap_socket(plain, server_hostname=AGENT_NAME, session=session) as second:
            assert second.session_reused
            assert second.recv(1) == b""
    assert world.admin(context).info()["node"] == "n1"


@pytest.mark.parametrize(
    "junk",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff" + b"x" * 1000,
        streams.LENGTH.pack(framing.MAX_BYTES + 1),
        streams.LENGTH.pack(9) + b"not json!",
        streams.LENGTH.pack(3) + b"[1]",
        streams.LENGTH.pack(framing.MAX_BYTES) + b"[" * framing.MAX_BYTES,
        streams.LENGTH.pack(100) + b'{"op":',  # and no more
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_of_the_controller_ends_its_connection(world: World, junk: bytes) -> None:
    with world.raw() as sock:
        with contextlib.suppress(OSError):
            sock.sendall(junk)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
    assert world.admin().info()["node"] == "n1"


@pytest.mark.parametrize("junk", [b"", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff"])
def test_strangers_that_shake_no_hands_are_cut_off(world: World, junk: bytes) -> None:
    with world.plain() as sock:
        sock.sendall(junk)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while sock.recv(100):
                pass
        assert time.monotonic() - began < 5.0
    assert world.admin().info()["node"] == "n1"


def test_a_handshake_that_drips_is_cut_off(world: World) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = world.context(CONTROLLER_NAME).wrap_bio(
        incoming, outgoing, server_hostname=AGENT_NAME
    )
    with contextlib.suppress(ssl.SSLWantReadError):
        shaking.do_handshake()
    hello = outgoing.read()
    with world.plain() as sock:
        began = time.monotonic()
        with pytest.raises(ConnectionError):
            for byte in hello * 100:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - began < 5.0


def test_a_crowd_of_strangers_keeps_nobody_out(world: World) -> None:
    admin = world.admin()
    assert admin.info()["pid"] == 1
    crowd = [world.plain() for _ in range(2 * LIMIT)]
    assert world.admin().info()["pid"] == 2
    assert admin.info()["pid"] == 2, "who was there before is still connected"
    assert len(world.loop.asked) == 3
    for sock in crowd:
        sock.close()


def test_refusals_do_not_fill_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(50):
        with world.plain() as sock:
            sock.sendall(b"x" * 10)
            with contextlib.suppress(ConnectionError):
                sock.recv(100)
    assert 1 <= len([r for r in caplog.records if "not let in" in r.message]) <= 5


def test_certificates_may_come_later_and_change(
    world: World, new_authority: Callable[[], Any]
) -> None:
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (world.tls / name).rename(world.tls / f"{name}-away")
    world.certificates._context = None  # as if it had started now
    context = controller_context(world.authority.write(world.tmp / "c", CONTROLLER_NAME))
    admin = world.admin(context)
    with pytest.raises(Unavailable):
        admin.info()
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (world.tls / f"{name}-away").rename(world.tls / name)
    assert admin.info()["node"] == "n1"
    other = new_authority()
    other.write(world.tls, AGENT_NAME)
    with pytest.raises(Unavailable):
        world.admin(context).info()
    assert world.admin(world.context(CONTROLLER_NAME, authority=other)).info()["node"] == "n1"
    assert admin.info()["node"] == "n1", "a connection that was let in goes on"


def test_a_plan_that_is_too_long_is_not_called_unavailable(world: World) -> None:
    roles = tuple(Role(f"a{n}", "n" * 63, Level.LEAF, 1, "top") for n in range(2000))
    plan = Plan("digits", 1, 1, Timing.EAGER, (*roles, Role("top", "n", Level.TOP, 2000)))
    with pytest.raises(WireError, match="is the most"):
        world.admin().apply(plan)
    assert world.loop.asked == []


def test_nobody_there() -> None:
    with listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        AgentAdmin.remote("127.0.0.1", port, context, timeout=1.0).info()


def test_one_that_does_not_answer_costs_the_timeout_once() -> None:
    with listener("127.0.0.1", 0) as silent:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(Unavailable, match="timed out"):
            AgentAdmin.remote("127.0.0.1", port, context, timeout=0.3).info()
        assert time.monotonic() - began < 2.0


def test_closing_waits_for_nobody(world: World) -> None:
    world.admin().info()
    strangers = [world.plain() for _ in range(5)]
    began = time.monotonic()
    world.remote.close()
    assert time.monotonic() - began < 1.0
    for sock in strangers:
        sock.close()
