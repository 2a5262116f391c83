"""Brings versions to the disk after readers have them.

Why: a disk may take longer for a model than everything else a round does, and a client trains
meanwhile. So the version is put in force out of shared memory, and written and synced behind
that, by a thread of its own; the next version waits for it, so that at most one is not on the
disk. It must not decide what becomes of a version that is lost before.
"""

from __future__ import annotations

import contextlib
import logging
import threading

from functions.coordinator.checkpoint import Checkpoints
from functions.coordinator.runtime import Job
from lifl import crash
from lifl.errors import LiflError

log = logging.getLogger("lifl.coordinator")

REST_SECONDS = 0.05
"""For so long who waits for the version has the machine to himself, before its writing begins."""


class Keeper:
    """One job's; its methods are for one thread. ``keep`` is how many versions stay on disk."""

    def __init__(self, job: Job, checkpoints: Checkpoints, keep: int) -> None:
        self._job = job
        self._checkpoints = checkpoints
        self._keep = keep
        self._document: memoryview | None = None
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._error: Exception | None = None

    def begin(self, document: memoryview) -> None:
        """Bring the present version, which is ``document``, to the disk; return at once.

        The memory may not change or go before :meth:`finish` or :meth:`settle`.
        """
        self._document = document
        self._hurry.clear()
        name = f"keep-{self._job.name}"
        self._thread = threading.Thread(target=self._run, args=(document,), name=name, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until the version is on the disk; what has failed is tried once more.

        Raises
        ------
        OSError
            if the disk is full or fails.
        TemporaryError
            if the store cannot be reached.
        """
        self._join()
        if self._error is not None and self._document is not None:
            self._write(self._document)
        self._document = self._error = None

    def settle(self) -> None:
        """Wait until the version is on the disk, or has failed to come there: memory may go."""
        self._join()
        self._document = self._error = None

    def prune(self) -> None:
        """Remove what is older than the versions to be kept."""
        self._checkpoints.prune(self._job.version.version + 1 - self._keep)

    def _join(self) -> None:
        if self._thread is not None:
            self._hurry.set()
            self._thread.join()
            self._thread = None

    def _run(self, document: memoryview) -> None:
        self._hurry.wait(REST_SECONDS)
        try:
            self._write(document)
        except (OSError, LiflError) as e:
            self._error = e
            version = self._job.version.version
            log.warning("job %s: version %d is not on the disk: %s", self._job.name, version, e)

    def _write(self, document: memoryview) -> None:
        version = self._job.version
        draft = self._checkpoints.draft(version.version)
        try:
            draft.include(version.vector_files.values())
            name, writing = draft.write_model(document)
            with writing:
                pass  # all of it
            crash.point("written")
            draft.keep()
        except BaseException:
            draft.discard()
            raise
        crash.point("synced")
        self._job.kept(name)
        crash.point("kept")
        with contextlib.suppress(OSError):
            self.prune()
