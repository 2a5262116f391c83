"""One node's agent from start to end.

Why: the order matters. The node is locked before anything of the last agent is
touched; its functions are known again before new ones are let in; the sockets
open last and go first.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
from pathlib import Path

from ebpf.agent import metrics, state
from ebpf.agent.node import Node
from ebpf.agent.server import Server
from ebpf.agent.settings import AgentSettings
from lifl.dataplane.api import Switch
from lifl.dataplane.hardening import seal_process
from lifl.dataplane.relay import Relay
from lifl.errors import Unavailable

log = logging.getLogger("lifl.agent")


class Agent:
    """Owns the node's switch, pools and sockets while it runs.

    SIGTERM and SIGINT end the node's data plane; SIGHUP leaves it to the next
    agent, as a crash does.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._leave = False

    def run(self) -> None:
        """Serve until a signal comes.

        Raises
        ------
        Unavailable
            if another agent serves the node.
        ConfigError
            if the data plane cannot be had.
        """
        settings = self._settings
        seal_process()
        lock = _take_node(settings.state_file.with_suffix(".lock"))
        switch = self._open_switch()
        node = Node(settings, switch)
        server = Server(node, platform_uids=frozenset({0, os.geteuid()}))
        try:
            self._restore(node, server)
            server.listen()
            if settings.metrics_port:
                metrics.serve(settings)
            server.stop_on(signal.SIGTERM, signal.SIGINT)
            signal.signal(signal.SIGHUP, lambda *_: self._leave_running(server))
            log.info("node %s: start %d, %s data plane", settings.node, node.epoch, switch.name)
            server.run()
        finally:
            server.close()
            if not self._leave:
                self._clear(node)
            switch.close()
            os.close(lock)

    def _open_switch(self) -> Switch:
        if self._settings.dataplane == "socket":
            return Relay()
        from ebpf.agent.kernel_switch import KernelSwitch  # bcc is slow to load

        return KernelSwitch.open(self._settings.pin_dir)

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
        self._settings.state_file.unlink(missing_ok=True)
        if self._settings.dataplane == "ebpf":
            from ebpf.agent import pins

            pins.remove(self._settings.pin_dir)


def _take_node(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unavailable(f"another agent serves this node: {path} is locked") from None
    return fd
