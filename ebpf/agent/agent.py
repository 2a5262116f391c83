"""One node's agent from start to end.

Why: the order matters. The node is locked before anything of the last agent is
touched; its functions are known again before new ones are let in; the sockets
open last and go first. Probes are answered all the time.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
from pathlib import Path

from ebpf.agent import identity, state
from ebpf.agent.guests import listener
from ebpf.agent.health import Health
from ebpf.agent.node import Node
from ebpf.agent.remote import RemoteAdmin
from ebpf.agent.server import Server
from ebpf.agent.settings import AgentSettings
from lifl.dataplane.api import Switch
from lifl.dataplane.hardening import seal_process
from lifl.dataplane.relay import Relay
from lifl.dataplane.tls import Certificates, agent_context
from lifl.errors import Unavailable

log = logging.getLogger("lifl.agent")

ENDING = (signal.SIGTERM, signal.SIGINT)


class Agent:
    """Owns the node's switch, pools and sockets while it runs.

    SIGTERM and SIGINT end the node's data plane, when the start is over if they come during it:
    until then nobody could take away what the last agent, or this one, has pinned. SIGHUP leaves
    it to the next agent, as a crash or a start that fails does.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._leave = False
        self._ending = False
        self._told = False
        """Whether it ends because it was told to; what it cannot go on from is the next one's."""

    def run(self) -> None:
        """Serve until a signal comes.

        Raises
        ------
        Unavailable
            if another agent serves the node, or a port cannot be had.
        ConfigError
            if the data plane cannot be had.
        """
        for number in ENDING:
            signal.signal(number, self._end_soon)
        seal_process()
        with contextlib.ExitStack() as ending:
            self._run(ending)

    def _run(self, ending: contextlib.ExitStack) -> None:
        settings = self._settings
        ending.callback(os.close, _take_node(settings.lock_file))
        health = Health(settings.admin_socket)
        if settings.metrics_port:
            self._open_web(health, ending)
        remote = self._open_remote(*settings.admin_listen) if settings.admin_listen else None
        if remote is not None:
            ending.callback(remote.close)  # when the loop has let go of its threads
        health.waiting_for = "the data plane to be attached"
        switch = self._open_switch()
        ending.callback(switch.close)
        node = Node(settings, switch)
        platform_uids = frozenset({0, os.geteuid()})
        server = Server(node, platform_uids, identity.of(settings, platform_uids))
        ending.callback(self._end, node, server, health)
        self._restore(node, server)
        server.listen()
        if remote is not None:
            remote.start()
        server.stop_on(*ENDING)
        if self._ending:
            server.stop()
        signal.signal(signal.SIGHUP, lambda *_: self._leave_running(server))
        log.info("node %s: start %d, %s data plane", settings.node, node.epoch, switch.name)
        health.waiting_for = ""
        server.run()
        self._told = True

    def _end_soon(self, *_: object) -> None:
        self._ending = True

    def _end(self, node: Node, server: Server, health: Health) -> None:
        health.waiting_for = "its successor: it is shutting down"
        server.close()
        if self._told and not self._leave:
            self._clear(node)

    def _open_web(self, health: Health, ending: contextlib.ExitStack) -> None:
        from ebpf.agent.web import Web  # the local platform has none

        ending.callback(Web(self._settings, health).close)

    def _open_remote(self, host: str, port: int) -> RemoteAdmin:
        certificates = Certificates(self._settings.tls_dir, agent_context)
        return RemoteAdmin(listener(host, port), certificates.context, self._settings.admin_socket)

    def _open_switch(self) -> Switch:
        if self._settings.dataplane == "socket":
            return Relay()
        from ebpf.agent.kernel_switch import KernelSwitch

        return KernelSwitch.open(self._settings.pin_dir, self._settings.bpf_object)

    def _restore(self, node: Node, server: Server) -> None:
        raw = state.load(self._settings.state_file)
        if raw is not None:
            node.restore(raw)
        server.membership.restore(raw["endpoints"] if raw is not None else ())
        node.save()

    def _leave_running(self, server: Server) -> None:
        self._leave = True
        server.stop()

    def _clear(self, node: Node) -> None:
        for endpoint in node.registry:
            node.switch.unplug(endpoint.number)
        _forget(self._settings)


def clear(settings: AgentSettings) -> None:
    """Take away what an agent left of its node that ended without being told to.

    For whoever ends a platform while no agent of the node is there to do it itself.

    Raises
    ------
    Unavailable
        if an agent serves the node.
    OSError
        if something of it cannot be taken away.
    """
    lock = _take_node(settings.lock_file)
    try:
        _forget(settings)
    finally:
        os.close(lock)


def _forget(settings: AgentSettings) -> None:
    settings.state_file.unlink(missing_ok=True)
    if settings.dataplane == "ebpf":
        from ebpf.agent import pins

        pins.remove(settings.pin_dir)


def _take_node(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unavailable(f"another agent serves this node: {path} is locked") from None
    return fd
