"""Mutual TLS between the controller and the agents, and the files it is made of.

Why: whoever may administer an agent may end jobs on its node, and on a cluster
the question comes over the network. Both sides show a certificate of one small
authority that signs for nothing else; a name in it says which side it is for, so
that one agent's key opens no other agent.

It must not open sockets, and must not fall back to anything less.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lifl.errors import Unavailable

AGENT_NAME = "lifl-agent"
"""DNS name in the certificate of every agent."""
CONTROLLER_NAME = "lifl-controller"
"""DNS name in the controller's certificate."""
CA_FILE, CERTIFICATE_FILE, KEY_FILE = "ca.crt", "tls.crt", "tls.key"
"""As in a Kubernetes Secret of type kubernetes.io/tls; PEM."""

log = logging.getLogger("lifl.tls")


def agent_context(directory: Path) -> ssl.SSLContext:
    """Return the agent's side: it asks for a certificate and resumes no session.

    Which certificate is not checked by the context: see :func:`dns_names`. Raises OSError
    or ValueError when the files are missing or do not fit.
    """
    context = _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), directory)
    context.verify_mode = ssl.CERT_REQUIRED
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # a resumed session is not verified again
    return context


def controller_context(directory: Path) -> ssl.SSLContext:
    """Return the controller's side; connect with ``server_hostname=AGENT_NAME``.

    Raises OSError or ValueError when the files are missing or do not fit.
    """
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), directory)


def _load(context: ssl.SSLContext, directory: Path) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(directory / CA_FILE)
    # Without a password an encrypted key would be asked for on the terminal.
    context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password="")
    return context


def dns_names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the DNS names that a verified peer's certificate (``getpeercert()``) is for."""
    names = (certificate or {}).get("subjectAltName", ())
    return frozenset(value.lower() for kind, value in names if kind == "DNS")


class Certificates:
    """A context made of files that may appear late and be replaced; made anew when they were.

    ``make`` is :func:`agent_context` or :func:`controller_context`. May be used by several
    threads.
    """

    def __init__(self, directory: Path, make: Callable[[Path], ssl.SSLContext]) -> None:
        self._directory = directory
        self._make = make
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None
        self._stamp: object = None
        self._bad_stamp: object = None

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        Files that do not fit together, as in the middle of their replacement, leave the
        last context in force. Raises Unavailable as long as there never was one.
        """
        with self._lock:
            stamp = self._look()
            if self._context is None or stamp != self._stamp:
                self._renew(stamp)
            if self._context is None:
                raise Unavailable(f"no certificate: {self._directory} is not complete yet")
            return self._context

    def _renew(self, stamp: object) -> None:
        try:
            context = self._make(self._directory)
        except (OSError, ValueError) as e:
            if stamp != self._bad_stamp:  # said once
                log.warning("the certificate files in %s cannot be used: %s", self._directory, e)
                self._bad_stamp = stamp
            return
        if self._look() == stamp:  # else they were replaced while they were read
            self._stamp = stamp
        self._context = context

    def _look(self) -> object:
        return tuple(map(self._stat, (CA_FILE, CERTIFICATE_FILE, KEY_FILE)))

    def _stat(self, name: str) -> object:
        try:
            found = (self._directory / name).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
