"""The gateway's place in each job's domain: pool, data socket, registration.

Why: a gateway serves many jobs and registers once for each, whenever the agent
has the job's domain; agents restart and domains come and go. A keeper per job
holds the registration, answers its loss, reads the data socket, and tells the
coordinator what the pool holds whenever the gateway (or the pool) is new, so
that an update which was accepted but died with its gateway is asked for again.

It must not know HTTP requests, and must not look into objects.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import gevent
from gevent.event import Event
from gevent.socket import wait_read

from functions.gateway.later import backoff, patiently
from lifl.dataplane.registration import Registration
from lifl.errors import LiflError, NotDelivered, RegistrationError, Unavailable
from lifl.store import Pool, SlotKind, SlotState
from lifl.wire import Descriptor

log = logging.getLogger("lifl.gateway")

RESUME_SECONDS = 30.0
_HELD = (SlotState.SEALED, SlotState.TAKEN)


class Gate:
    """Confirmations pass side by side; an inventory passes alone.

    An inventory that is taken between the coordinator's "accepted" and the
    seal would report the update as missing.
    """

    def __init__(self) -> None:
        self._open = Event()
        self._open.set()
        self._empty = Event()
        self._empty.set()
        self._inside = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Pass with others."""
        while not self._open.is_set():
            self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others out, and wait until those inside have left."""
        self._open.clear()
        try:
            self._empty.wait()
            yield
        finally:
            self._open.set()


class Attachment:
    """One job's registration while it lasts."""

    def __init__(self, job: str, registration: Registration) -> None:
        self.job = job
        self.registration = registration
        self.gate = Gate()
        self.closed = False
        self._users = 0
        self._unused = Event()
        self._unused.set()

    @contextmanager
    def use(self) -> Iterator[Pool]:
        """Keep the pool mapped while a request works in it; raises Unavailable if it is gone."""
        if self.closed:
            raise Unavailable(f"this node lost its memory of job {self.job}", retry_after=1.0)
        self._users += 1
        self._unused.clear()
        try:
            yield self.pool
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    def close(self) -> None:
        """End the registration once the requests that use the pool have ended."""
        self._unused.wait()
        self.closed = True
        self.registration.close()

    @property
    def pool(self) -> Pool:
        """Return the job's pool on this node."""
        return self.registration.pool

    @property
    def endpoint(self) -> int:
        """Return this gateway's number in the job's domain."""
        return self.registration.endpoint

    @property
    def lane(self) -> int:
        """Return the lane under which this gateway pins models."""
        return self.registration.lane

    def send(self, descriptor: Descriptor) -> bool:
        """Send a descriptor on its route; False if nobody took it (the agent sends it again)."""
        try:
            self.registration.channel.send(descriptor)
        except NotDelivered as e:
            log.debug("job %s: %s", self.job, e)
            return False
        return True

    def inventory(self) -> list[int]:
        """Return the serials of the updates whose data the pool holds, alone or in a partial."""
        pool = self.pool
        serials: set[int] = set()
        with pool.lock:
            for state in _HELD:
                for kind in (SlotKind.UPDATE, SlotKind.PARTIAL):
                    for ref in pool.find(state=state, kind=kind):
                        serials.update(int(s) for s in pool.cover(ref.slot))
        return sorted(serials)


class Attachments:
    """Every job's attachment.

    ``name`` and ``token`` are what this gateway registers with (:class:`Registration`).
    ``report(job, serials)`` tells the coordinator an inventory; ``receive`` is
    given each descriptor that arrives for this gateway; ``attached(job)`` is called
    when an attachment begins, ``gone(job)`` when its pool is about to be closed.
    """

    def __init__(
        self,
        agent_socket: Path,
        name: str,
        token: str,
        *,
        report: Callable[[str, list[int]], None],
        receive: Callable[[Attachment, Descriptor], None],
        attached: Callable[[str], None],
        gone: Callable[[str], None],
    ) -> None:
        self._agent_socket = agent_socket
        self._name = name
        self._token = token
        self._report = report
        self._receive = receive
        self._attached = attached
        self._gone = gone
        self._wanted: set[str] = set()
        self._live: dict[str, Attachment] = {}
        self._keepers: dict[str, gevent.Greenlet] = {}
        self._why_not: dict[str, str] = {}

    def get(self, job: str) -> Attachment:
        """Return a job's attachment; raises Unavailable while there is none."""
        try:
            return self._live[job]
        except KeyError:
            raise Unavailable(
                f"this node is not ready for job {job} yet", retry_after=1.0
            ) from None

    def find(self, job: str) -> Attachment | None:
        """Return a job's attachment, if there is one."""
        return self._live.get(job)

    @property
    def agent_answers(self) -> bool:
        """Whether the agent's socket is there and every job that was attached still is."""
        return self._agent_socket.exists() and all(
            not a.registration.lost() for a in self._live.values()
        )

    def keep(self, jobs: Mapping[str, bool]) -> None:
        """Be attached to these jobs from now on.

        True asks for an attachment; False keeps one, for the last model of a job
        that is over, until the agent ends it.
        """
        self._wanted = {job for job, wanted in jobs.items() if wanted}
        for job in self._wanted - self._keepers.keys():
            self._keepers[job] = gevent.spawn(self._keep, job)
        for job in self._keepers.keys() - jobs.keys():
            self._keepers.pop(job).kill(block=False)
            self._why_not.pop(job, None)

    def recheck(self, job: str) -> None:
        """Report a job's inventory anew: an accepted update was lost after all."""
        attachment = self._live.get(job)
        if attachment is not None:
            gevent.spawn(self._take_stock, attachment)

    def _keep(self, job: str) -> None:
        for pause in backoff():
            attachment = self._attach(job)
            if attachment is not None:
                self._serve(attachment)
            if job not in self._wanted:
                self._keepers.pop(job, None)
                return
            gevent.sleep(pause)

    def _attach(self, job: str) -> Attachment | None:
        try:
            registration = Registration.open(
                self._agent_socket, kind="gateway", name=self._name, domain=job, token=self._token
            )
        except (LiflError, OSError) as e:
            if self._why_not.get(job) != str(e):  # said once
                self._why_not[job] = str(e)
                log.info("job %s: not attached yet: %s", job, e)
            return None
        self._why_not.pop(job, None)
        return Attachment(job, registration)

    def _serve(self, attachment: Attachment) -> None:
        job = attachment.job
        reader = None
        try:
            self._take_stock(attachment)
            attachment.registration.ready()
            self._live[job] = attachment
            self._attached(job)
            log.info("job %s: attached as endpoint %d", job, attachment.endpoint)
            reader = gevent.spawn(self._read, attachment)
            while self._hold(attachment):
                pass
        finally:
            self._live.pop(job, None)
            if reader is not None:
                reader.kill()
            self._gone(job)
            gevent.spawn(attachment.close)

    def _hold(self, attachment: Attachment) -> bool:
        """Wait until the agent goes away, then come back to it; False if it does not know us."""
        registration = attachment.registration
        while not registration.lost():
            wait_read(registration.fileno())
        log.info("job %s: the agent went away", attachment.job)
        with gevent.Timeout(RESUME_SECONDS, False):
            for pause in backoff():
                try:
                    registration.resume(self._agent_socket)
                except (Unavailable, OSError):
                    gevent.sleep(pause)
                except RegistrationError as e:
                    log.warning("job %s: the agent refused to resume: %s", attachment.job, e)
                    return False
                else:
                    log.info("job %s: registered again", attachment.job)
                    return True
        return False

    def _take_stock(self, attachment: Attachment) -> None:
        with attachment.gate.alone():
            try:
                patiently(lambda: self._report(attachment.job, attachment.inventory()))
            except LiflError as e:
                log.warning("job %s: inventory refused: %s", attachment.job, e)

    def _read(self, attachment: Attachment) -> None:
        channel = attachment.registration.channel
        while True:
            wait_read(channel.fileno())
            try:
                arrived = channel.recv(0)
            except Unavailable:  # unplugged: the registration's end says the rest
                return
            for descriptor in arrived:
                try:
                    self._receive(attachment, descriptor)
                except LiflError as e:
                    log.warning("job %s: %s: %s", attachment.job, descriptor, e)


def boot_id() -> str:
    """Return a word that differs between two lives of this gateway."""
    return f"{os.getpid():x}-{os.urandom(6).hex()}"
