"""The agent's metrics and probes over HTTP.

Why: a probe must be answered while a scrape is slow and while somebody else holds
connections open, so each has a thread. Read only: nothing can be changed here.
"""

from __future__ import annotations

import logging

from ebpf.agent.guests import Guest, Guests, listener
from ebpf.agent.health import Health
from ebpf.agent.metrics import registry
from ebpf.agent.settings import AgentSettings
from lifl.dataplane.admin import AgentAdmin
from lifl.pages import PageHandler, Pages

SCRAPE_SECONDS = 5.0
LIMIT = 128

log = logging.getLogger("lifl.agent")


class Web:
    """Serves :class:`lifl.pages.Pages` until :meth:`close`.

    Raises Unavailable if the port cannot be had.
    """

    def __init__(self, settings: AgentSettings, health: Health) -> None:
        self._admin = AgentAdmin(settings.admin_socket, timeout=SCRAPE_SECONDS)
        self._pages = Pages(
            registry(self._admin), not_alive=health.not_alive, not_ready=health.not_ready
        )
        listening = listener(settings.metrics_host, settings.metrics_port)
        self._guests = Guests("web", listening, self._serve, LIMIT)
        self._guests.start()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._guests.port

    def close(self) -> None:
        """End all connections."""
        self._guests.close()
        self._admin.close()

    def _serve(self, guest: Guest) -> None:
        try:
            _Handler(guest, self._pages)
        except OSError as e:
            log.debug("%s left: %s", guest.peer, e)


class _Handler(PageHandler):
    """One request on one connection."""

    def __init__(self, guest: Guest, pages: Pages) -> None:
        self.pages = pages
        super().__init__(guest.sock, (guest.peer, 0), None)  # type: ignore[arg-type] # serves it
