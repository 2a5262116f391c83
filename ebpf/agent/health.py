"""Whether the agent lives and whether it serves, for those who restart or await it.

Why: a loop that hangs must be told from one that is busy for a moment, and a node
takes part only when programs are attached and the sockets listen. Written by the
agent's thread, read by those that answer probes. It must not touch the node.
"""

from __future__ import annotations

from pathlib import Path

from lifl.dataplane.admin import AgentAdmin
from lifl.errors import LiflError

ANSWER_SECONDS = 2.0


class Health:
    """Asks the loop over its admin socket, like any other client."""

    def __init__(self, admin_socket: Path, answer: float = ANSWER_SECONDS) -> None:
        self._admin_socket = admin_socket
        self._answer = answer
        self.waiting_for = "its start"
        """What the agent still has to do before it serves, "" if nothing."""

    def not_alive(self) -> str:
        """Return why the agent is taken for dead, "" if it lives."""
        admin = AgentAdmin(self._admin_socket, timeout=self._answer)
        try:
            admin.info()
        except LiflError as e:
            return f"the agent's loop does not answer within {self._answer:g} s: {e}"
        finally:
            admin.close()
        return ""

    def not_ready(self) -> str:
        """Return why functions cannot register now, "" if they can."""
        if self.waiting_for:
            return f"the agent waits for {self.waiting_for}"
        return self.not_alive()
