"""One job's data thread: partials in, model versions out.

Why: the coordinator is the last hop of the data plane. Its thread registers
with the node's agent, takes partials as they come, and when their covers are
exactly the accepted updates has the next version made. It must not decide about rounds,
nor know how a version is made.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable

from functions.coordinator.committer import Committer
from functions.coordinator.outcomes import ModelPlace
from functions.coordinator.records import Phase
from functions.coordinator.runtime import Job
from functions.coordinator.shelf import Held, Shelf
from functions.coordinator.strategies import Diverged
from lifl.dataplane.registration import Registration
from lifl.errors import (
    AlreadyTaken,
    Fenced,
    LiflError,
    RegistrationError,
    StaleObject,
    TemporaryError,
    Unavailable,
)
from lifl.store import SlotKind, SlotRef
from lifl.wire import Descriptor, Opcode

log = logging.getLogger("lifl.coordinator")

RETRY_SECONDS = 0.1
COMMIT_RETRY_SECONDS = 1.0
IDLE_SECONDS = 0.02
"""A pause after which nothing is likely to come at once."""
Connect = Callable[[str], Registration]


class Engine(threading.Thread):
    """Serves one job until :meth:`stop`, or until the job is over and its domain is gone.

    ``connect`` registers with the agent for the job it is given.
    """

    def __init__(self, job: Job, connect: Connect, committer: Committer, *, node: str) -> None:
        super().__init__(name=f"engine-{job.name}", daemon=True)
        self.registered = False
        self.commit_seconds = 0.0
        self._job = job
        self._connect = connect
        self._committer = committer
        self._node = node
        self._ended = threading.Event()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._bell_lock = threading.Lock()
        self._held: list[Held] = []
        self._commit_after = 0.0
        job.wakers.append(self.wake)

    def wake(self, within: float = 0.0) -> None:
        """Have the thread look at the round again.

        Nothing happens if that has time: then partials are still to come, and wake it.
        """
        if within > 0:
            return
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def stop(self) -> None:
        """End the thread; what it holds is handed out again by the agent."""
        self._ended.set()
        self.wake()

    def close(self) -> None:
        """Wait for the thread, which was stopped."""
        self.join()

    def run(self) -> None:
        """Register, serve, and again whenever the agent has given this function up."""
        try:
            self._run()
        finally:
            with self._bell_lock:
                os.close(self._bell)
                self._bell = -1

    def _run(self) -> None:
        said = ""
        while not self._ended.is_set():
            try:
                link = self._connect(self._job.name)
            except (LiflError, OSError) as e:
                if self._job.over and isinstance(e, RegistrationError):
                    self._committer.give_up()
                    return
                if str(e) != said:
                    log.info("job %s: not registered yet: %s", self._job.name, e)
                    said = str(e)
                self._ended.wait(RETRY_SECONDS)
                continue
            said = ""
            self._serve_and_close(link)

    def _serve_and_close(self, link: Registration) -> None:
        try:
            self._serve(link)
        except Fenced as e:
            log.warning("job %s: the agent took this function's leases back: %s", link.job, e)
        except (TemporaryError, OSError) as e:
            log.warning("job %s: trying again: %s", link.job, e)
            self._ended.wait(RETRY_SECONDS)
        except Exception as e:
            log.exception("job %s failed", link.job)
            self._job.end(Phase.FAILED, f"{type(e).__name__}: {e}")
            self._ended.set()
        finally:
            self.registered = False
            self._held.clear()
            self._job.forget_held()
            self._committer.close()
            link.close()

    # -- serving --------------------------------------------------------------

    def _serve(self, link: Registration) -> None:
        """Serve one registration until it is void."""
        shelf = Shelf(link.pool, link.endpoint, self._job.schema)
        ref = self._committer.open(shelf)
        self._job.published(self._place(shelf, ref))
        link.ready()
        self.registered = True
        log.info("job %s: registered as endpoint %d", link.job, link.endpoint)
        while not self._ended.is_set():
            if link.lost() and not self._resume(link):
                return
            for descriptor in link.channel.recv(0):
                self._receive(link, descriptor)
            self._release_stale(link)
            if time.monotonic() >= self._commit_after and self._job.begin_commit():
                self._commit(link, shelf)
            self._wait(link)

    def _wait(self, link: Registration) -> None:
        """Wait for a descriptor, the bell, or the loss of the agent.

        Meanwhile the pool's slots are mapped, one in each pause: of a mean that lies in a slot
        never looked at before, that takes as long as making a model of it.
        """
        poll = select.poll()
        poll.register(link.channel.fileno(), select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        waits = []
        if link.lost():
            waits.append(RETRY_SECONDS)
        else:
            poll.register(link.fileno(), select.POLLIN)
        pause = self._commit_after - time.monotonic()
        if pause > 0:
            waits.append(pause)
        cold = link.pool.unmapped()
        if cold is not None:
            waits.append(IDLE_SECONDS)
        ready = poll.poll(1000 * min(waits) if waits else None)
        if cold is not None and not ready:
            link.pool.map_slot(cold)
        if any(fd == self._bell for fd, _ in ready):
            os.eventfd_read(self._bell)

    def _resume(self, link: Registration) -> bool:
        """Come back to a restarted agent; False if it does not know this function."""
        try:
            link.resume()
        except (Unavailable, OSError):
            return True
        except RegistrationError as e:
            log.info("job %s: the agent does not know us: %s", link.job, e)
            return False
        log.info("job %s: registered again", link.job)
        return True

    def _receive(self, link: Registration, descriptor: Descriptor) -> None:
        if descriptor.opcode is not Opcode.OBJECT:
            return
        ref = SlotRef(descriptor.slot, descriptor.generation)
        try:
            entry = link.pool.take(ref, link.endpoint)
        except (AlreadyTaken, StaleObject):
            return  # a second descriptor
        cover = tuple(link.pool.cover(ref.slot).tolist())
        kept = entry.kind is SlotKind.PARTIAL and self._job.partial(entry.assignment, cover)
        if kept:
            self._held.append(Held(ref, entry, cover))
            return
        log.warning(
            "job %s: a %s of assignment %d with %d updates is not counted (now at %d)",
            link.job,
            entry.kind.name.lower(),
            entry.assignment,
            len(cover),
            self._job.assignment,
        )
        link.pool.release(ref, link.endpoint)

    def _release_stale(self, link: Registration) -> None:
        """Free partials of an attempt that was given up."""
        present, over = self._job.assignment, self._job.over
        for item in [h for h in self._held if over or h.entry.assignment != present]:
            self._held.remove(item)
            link.pool.release(item.ref, link.endpoint)

    # -- committing -----------------------------------------------------------

    def _commit(self, link: Registration, shelf: Shelf) -> None:
        """Make the next version out of the held partials, or try again later."""
        start = time.monotonic()
        try:
            following, ref = self._committer.make(shelf, self._held)
        except Diverged as e:
            log.warning("job %s has failed: %s", link.job, e)
            self._job.end(Phase.FAILED, str(e))
            return
        except (TemporaryError, OSError) as e:
            log.warning("job %s: the version could not be made: %s", link.job, e)
            self._job.abandon_commit()
            self._commit_after = start + COMMIT_RETRY_SECONDS
            return
        inputs = [h.ref for h in self._held]
        self._held.clear()
        try:
            self._committer.publish(shelf, ref, inputs)
        except BaseException:  # the version is in force; the next registration publishes it
            self._job.finish_commit(following, None)
            raise
        self._job.finish_commit(following, self._place(shelf, ref))
        self.commit_seconds = time.monotonic() - start
        version = self._job.version.version
        log.info("job %s: version %d (%.0f ms)", link.job, version, self.commit_seconds * 1e3)
        self._committer.keep(shelf, ref)

    def _place(self, shelf: Shelf, ref: SlotRef) -> ModelPlace:
        return ModelPlace(self._node, *ref, shelf.doc_start, shelf.doc_bytes)
