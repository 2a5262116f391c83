"""One gateway, put together.

Why: the parts know each other only through what is handed to them here. It
must not do any work of its own.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

from gevent.event import Event
from gevent.socket import socket as GeventSocket

from functions.gateway import problems
from functions.gateway.admission import Coordinator
from functions.gateway.attach import Attachments, boot_id
from functions.gateway.body import RequestBody
from functions.gateway.buffers import ReceiveBuffers
from functions.gateway.ingest import Ingest
from functions.gateway.metrics import Metrics
from functions.gateway.model import Models
from functions.gateway.polls import Polls
from functions.gateway.settings import GatewaySettings
from functions.gateway.transfers import Transfers
from functions.gateway.turns import Turns
from functions.gateway.views import JobView
from functions.gateway.watch import Watch
from lifl.auth import mint_platform_token
from lifl.client.ahead import Asker
from lifl.client.http import HttpClient

log = logging.getLogger("lifl.gateway")

TOKEN_SECONDS = 3600.0
COORDINATOR_CONNECTIONS = 64
GATEWAY_CONNECTIONS = 32  # kept to each of the others: so many sums may leave at once
CLAIM_TIMEOUT = 10.0
FRONT_TIMEOUT = 60.0


class PlatformToken:
    """The token this gateway shows other parts of the platform, minted anew in time."""

    def __init__(self, secret: bytes, subject: str) -> None:
        self._secret = secret
        self._subject = subject
        self._token = ""
        self._until = 0.0

    def __call__(self) -> str:
        """Return a token with at least half its lifetime left."""
        now = time.monotonic()
        if now > self._until:
            self._token = mint_platform_token(self._secret, self._subject, lifetime=TOKEN_SECONDS)
            self._until = now + TOKEN_SECONDS / 2
        return self._token


class Gateway:
    """Everything one gateway process has."""

    def __init__(self, settings: GatewaySettings) -> None:
        function = settings.function
        self.settings = settings
        self.node = function.node
        self.stopping = Event()
        self._boot = boot_id()
        self._token = PlatformToken(function.platform_secret, f"gateway/{function.node}")
        self._others: dict[str, HttpClient] = {}
        self.coordinator = HttpClient(
            function.coordinator_url,
            self._token,
            timeout=CLAIM_TIMEOUT,
            connections=COORDINATOR_CONNECTIONS,
        )
        self.front = HttpClient(function.coordinator_url, timeout=FRONT_TIMEOUT)
        self.polls = Polls()
        self._turns = Turns()
        self._buffers = ReceiveBuffers()
        self.metrics = Metrics(lambda: self.polls.parked)
        self.attachments = Attachments(  # the lambdas speak of parts made below
            function.agent_socket,
            function.name,
            function.registration,
            report=self._report,
            receive=lambda *arrival: self.transfers.arrived(*arrival),  # noqa: PLW0108
            attached=self._attached,
            gone=lambda job: self.models.forget(job),  # noqa: PLW0108
        )
        self.watch = Watch(
            self.coordinator,
            self.node,
            settings.url,
            settings.public_url,
            changed=self._changed,
            dropped=self.polls.forget,
            jobs=self.attachments.keep,
        )
        self.models = Models(self.attachments, self.node, self._other)
        asker = Asker(
            function.coordinator_url,
            self._token,
            timeout=CLAIM_TIMEOUT,
            connections=COORDINATOR_CONNECTIONS,
        )
        ways = Coordinator(self.coordinator, asker)
        self.ingest = Ingest(ways, self.attachments, self.node, self._boot)
        self.transfers = Transfers(
            self.coordinator,
            self.attachments,
            self.node,
            self._boot,
            view=self.watch.view,
            gateway=self._other,
        )

    def start(self) -> None:
        """Start to watch the coordinator; everything else follows from what it says."""
        if not self.settings.function.auth:
            log.warning(
                "LIFL_AUTH=off: clients are NOT authenticated; anybody who reaches %s can post "
                "updates and stop jobs",
                self.settings.url,
            )
        self.watch.start()

    def stop(self) -> None:
        """Answer the parked polls; uploads in flight go on."""
        self.stopping.set()
        self.polls.close()

    def missing(self) -> str:
        """Return what this gateway waits for before it can serve, "" if nothing."""
        if self.stopping.is_set():
            return "its end: it is shutting down"
        if not self.watch.fresh:
            return "the coordinator"
        return "" if self.attachments.agent_answers else "the node's agent"

    def body(self, sock: GeventSocket, request: Any, *, expects_continue: bool) -> RequestBody:
        """Return the body of a request that gunicorn has parsed."""
        return RequestBody(
            sock,
            request,
            self._turns,
            self._buffers,
            idle=self.settings.body_idle,
            rate=self.settings.body_rate,
            expects_continue=expects_continue,
        )

    @staticmethod
    def problem(error: BaseException) -> problems.Problem:
        """Return what to tell a client about ``error``."""
        return problems.of(error)

    def _changed(self, view: JobView) -> None:
        self.models.changed(view)
        self.transfers.stray(view)
        self.polls.changed(view)

    def _attached(self, job: str) -> None:
        if job in self.watch.views:
            self.transfers.stray(self.watch.views[job])

    def _other(self, url: str) -> HttpClient:
        if url not in self._others:
            self._others[url] = HttpClient(
                url, self._token, timeout=30.0, connections=GATEWAY_CONNECTIONS
            )
        return self._others[url]

    def _report(self, job: str, serials: list[int]) -> None:
        self.coordinator.json(
            "POST",
            f"/internal/v1/nodes/{quote(self.node, safe='')}/inventory",
            {"job": job, "serials": serials, "boot": self._boot},
        )
