"""The certificates of a cluster: kept in Secrets, looked at every half minute, renewed in time.

Why: Secrets are what all replicas of the controller and all agents can share, and the API
server's versions make races end well: who comes second is told so, looks again, and uses
what the first one made. Only the leader renews; but a replica that finds no certificate for
its webhook makes one, since functions cannot start without a webhook.

    lifl-ca              ca.crt ca.key, next.crt next.key: read by controllers alone
    lifl-webhook-tls     ca.crt tls.crt tls.key
    lifl-agent-tls       ca.crt tls.crt tls.key, mounted by agents
    lifl-controller-tls  ca.crt tls.crt tls.key

Keys come to Python's ssl module by files; they are in memory, and for a moment. It must not
decide what is due: :mod:`controller.certificates` does.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import datetime
import hashlib
import logging
import ssl
import tempfile
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

from controller import certificates
from controller.certificates import Issue, Leaf, Make, Pair, Prepare, Present, Promote, Step, Trust
from controller.clients.api import Cluster, Object
from controller.clients.errors import Conflict, Exists
from controller.clients.kinds import SECRET, WEBHOOK
from lifl.dataplane.tls import CA_FILE, CERTIFICATE_FILE, KEY_FILE, controller_context
from lifl.errors import LiflError, Unavailable

log = logging.getLogger("lifl.controller")

AUTHORITY = "lifl-ca"
LOOK_SECONDS = 30.0
RETRY_SECONDS = 2.0
"""Pause after a failure while there is no certificate to serve with."""
TURNS = 20
"""Most times to look again in one go: each renewal takes two, and so does each lost race."""


def _utc() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class ClusterCertificates:
    """Keeps the certificates; its contexts may be asked for by several threads at any time.

    ``service``, ``namespace`` and further ``names`` are the webhook's, ``configuration`` is the
    MutatingWebhookConfiguration whose caBundle is kept right; ``leading`` says whether this
    process renews; ``on_look`` is told of each Secret's certificate when it ends, in seconds
    since 1970.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        *,
        service: str = "lifl-webhook",
        names: Sequence[str] = (),
        configuration: str = "lifl",
        leading: Callable[[], bool] = lambda: True,
        on_look: Callable[[str, float], None] = lambda _secret, _ends: None,
        clock: Callable[[], datetime.datetime] = _utc,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._configuration = configuration
        self._leading = leading
        self._on_look = on_look
        self._clock = clock
        self._wants = certificates.wanted(service, namespace, names)
        self._server, _, self._client = (w.secret for w in self._wants)
        self._objects: dict[str, Object | None] = {}
        self._leaves: dict[str, Leaf] = {}
        self._contexts: dict[str, tuple[Hashable, ssl.SSLContext]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="certificates", daemon=True)

    # -- for others ---------------------------------------------------------------------

    def webhook_context(self) -> ssl.SSLContext:
        """Return the webhook's side of TLS; raises Unavailable while there is no certificate."""
        return self._context(self._server)[1]

    def credentials(self) -> tuple[Hashable, ssl.SSLContext]:
        """Return the controller's side towards agents, and what changes when that does.

        Raises
        ------
        Unavailable
            while there is no certificate.
        """
        return self._context(self._client)

    def start(self) -> None:
        """Begin to look; the first look is at once."""
        self._thread.start()

    def stop(self) -> None:
        """End; a request that is under way may take its time."""
        self._ended.set()
        self._thread.join()

    def tend(self) -> None:
        """Look once at everything, and do what is due.

        Raises
        ------
        Unavailable, Forbidden, ApiError
            if the API server does not let it.
        """
        bootstrap = False
        for _ in range(TURNS):
            now = self._clock()
            present = self._look()
            self._adopt()
            bootstrap = bootstrap or self._server not in self._contexts
            if not bootstrap and not self._leading():
                return
            steps = certificates.renew(now, present, self._wants)
            try:
                for step in steps:
                    self._do(step, now, present)
            except (Exists, Conflict) as e:
                log.info("certificates: another was first, looking again: %s", e)
                continue
            if not steps:
                self._tell(certificates.trusted(now, present, self._wants))
                return
        raise Unavailable("certificates: there is always something else to do; trying again later")

    # -- one look -----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            pause = LOOK_SECONDS
            try:
                self.tend()
            except LiflError as e:
                log.warning("certificates: %s", e)
                pause = LOOK_SECONDS if self._server in self._contexts else RETRY_SECONDS
            except Exception:
                log.exception("certificates: trying again after an error")
            self._ended.wait(pause)

    def _look(self) -> Present:
        names = [AUTHORITY, *(w.secret for w in self._wants)]
        self._objects = {n: self._cluster.find(SECRET, n, self._namespace) for n in names}
        authority = _data(self._objects[AUTHORITY])
        self._leaves = {}
        for want in self._wants:
            data = _data(self._objects[want.secret])
            pair = _pair(data, "tls")
            if pair is not None:
                self._leaves[want.secret] = Leaf(pair, data.get(CA_FILE, b""))
                end = certificates.ends(pair)
                if end is not None:
                    self._on_look(want.secret, end)
        return Present(_pair(authority, "ca"), _pair(authority, "next"), dict(self._leaves))

    def _adopt(self) -> None:
        """Make contexts of what changed."""
        for name in (self._server, self._client):
            leaf = self._leaves.get(name)
            if leaf is None:
                continue
            parts = (leaf.pair.certificate, leaf.pair.key, leaf.trusted)
            stamp = hashlib.sha256(b"\0".join(parts)).hexdigest()
            known = self._contexts.get(name)
            if known is not None and known[0] == stamp:
                continue
            make = _server_context if name == self._server else controller_context
            try:
                self._contexts[name] = (stamp, _context_of(leaf, make))
            except (OSError, ValueError) as e:
                log.warning("certificates: the Secret %s cannot be used: %s", name, e)
                continue
            if known is not None:
                log.info("certificates: the Secret %s changed; in use from now on", name)

    def _context(self, name: str) -> tuple[Hashable, ssl.SSLContext]:
        found = self._contexts.get(name)
        if found is None:
            raise Unavailable(f"the Secret {name} has no certificate yet")
        return found

    # -- doing what is due --------------------------------------------------------------

    def _do(self, step: Step, now: datetime.datetime, present: Present) -> None:
        log.info("certificates: %s", step)
        match step:
            case Make():
                self._write_authority(certificates.make_authority(now), None)
            case Prepare():
                assert present.authority is not None
                self._write_authority(present.authority, certificates.make_authority(now))
            case Promote():
                assert present.successor is not None
                self._write_authority(present.successor, None)
            case Issue(want):
                assert present.authority is not None
                pair = certificates.issue(now, present.authority, want)
                trusted = certificates.trusted(now, present, self._wants)
                self._write_leaf(want.secret, Leaf(pair, trusted))
            case Trust(name):
                trusted = certificates.trusted(now, present, self._wants)
                self._write_leaf(name, Leaf(present.leaves[name].pair, trusted))

    def _write_authority(self, authority: Pair, successor: Pair | None) -> None:
        data = {"ca.crt": authority.certificate, "ca.key": authority.key}
        if successor is not None:
            data |= {"next.crt": successor.certificate, "next.key": successor.key}
        self._write(AUTHORITY, data, "Opaque")

    def _write_leaf(self, name: str, leaf: Leaf) -> None:
        pair = leaf.pair
        data = {CERTIFICATE_FILE: pair.certificate, KEY_FILE: pair.key, CA_FILE: leaf.trusted}
        self._write(name, data, "kubernetes.io/tls")

    def _write(self, name: str, data: dict[str, bytes], kind: str) -> None:
        """Write a Secret as it was when it was read; raises Exists or Conflict if it changed."""
        encoded = {k: base64.b64encode(v).decode() for k, v in data.items()}
        old = self._objects[name]
        if old is None:
            metadata = {"name": name, "labels": {"app.kubernetes.io/part-of": "lifl"}}
            body = {"metadata": metadata, "type": kind, "data": encoded}
            self._cluster.create(SECRET, body, self._namespace)
        else:
            self._cluster.replace(SECRET, {**old, "data": encoded}, self._namespace)

    def _tell(self, trusted: bytes) -> None:
        """Put whom to trust into the webhook's configuration, and nothing else."""
        found = self._cluster.find(WEBHOOK, self._configuration)
        if found is None:
            log.warning(
                "there is no MutatingWebhookConfiguration %s: functions' pods are not completed",
                self._configuration,
            )
            return
        bundle = base64.b64encode(trusted).decode()
        operations: list[Object] = []
        for i, webhook in enumerate(found.get("webhooks") or []):
            if webhook["clientConfig"].get("caBundle") != bundle:
                at = f"/webhooks/{i}"
                operations += [
                    {"op": "test", "path": f"{at}/name", "value": webhook["name"]},
                    {"op": "add", "path": f"{at}/clientConfig/caBundle", "value": bundle},
                ]
        if operations:
            self._cluster.patch(WEBHOOK, self._configuration, operations)
            log.info("certificates: told the API server whom to trust")


def _data(secret: Object | None) -> dict[str, bytes]:
    """Return a Secret's content; what is no base64 is left out."""
    data = {}
    for key, value in ((secret or {}).get("data") or {}).items():
        with contextlib.suppress(binascii.Error, ValueError):
            data[key] = base64.b64decode(value, validate=True)
    return data


def _pair(data: dict[str, bytes], name: str) -> Pair | None:
    certificate, key = data.get(f"{name}.crt"), data.get(f"{name}.key")
    return Pair(certificate, key) if certificate and key else None


def _server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0  # the API server resumes no sessions
    # Without a password an encrypted key would be asked for on the terminal.
    context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE, password="")
    return context


def _context_of(leaf: Leaf, make: Callable[[Path], ssl.SSLContext]) -> ssl.SSLContext:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        directory = Path(name)
        (directory / CA_FILE).write_bytes(leaf.trusted)
        (directory / CERTIFICATE_FILE).write_bytes(leaf.pair.certificate)
        (directory / KEY_FILE).write_bytes(leaf.pair.key)
        return make(directory)
