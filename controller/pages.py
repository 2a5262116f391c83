"""The controller's metrics and probes over HTTP.

Why: a process that waits to lead is ready too: it serves the webhook. It must not decide
anything.
"""

from __future__ import annotations

import threading
from http.server import ThreadingHTTPServer

from lifl.pages import PageHandler, Pages


class PageServer:
    """Serves ``pages`` from construction until :meth:`close`."""

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        handler = type("Handler", (PageHandler,), {"pages": pages})
        self._server = ThreadingHTTPServer(address, handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pages", kwargs={"poll_interval": 0.1}
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """Return the port it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
