"""What a job's decisions do outside of it: they are written through, then watchers are told.

Why: every event ends this way, and what could not be written must not be forgotten: it is
written with the next event. It must not decide anything; its caller keeps the job's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from functions.coordinator.effects import Effects, Notice
from functions.coordinator.outcomes import Tell
from functions.coordinator.state import Change, StateStore
from functions.coordinator.watch import Revisions
from lifl.errors import LiflError

SECONDS = {Notice.SOON: 0.25, Notice.SHORTLY: 0.05, Notice.NOW: 0.0}


class Outside:
    """One job's store and watchers.

    ``wakers`` are called with the seconds that there is time. Once the job is ``removed``
    nothing is written any more: the name may be another job's.
    """

    def __init__(self, job: str, store: StateStore, revisions: Revisions) -> None:
        self.wakers: list[Callable[[float], None]] = []
        self.removed = False
        self._job = job
        self._store = store
        self._revisions = revisions
        self._unwritten: list[Change] = []

    def confirm_unless(self, effects: Effects) -> None:
        """Make sure that an answer for which nothing is written is still ours to give."""
        if not effects.change:
            self._store.confirm()

    def apply(self, effects: Effects) -> None:
        """Write, and tell, even of what could not be written."""
        try:
            self._write(effects)
        finally:
            self._tell(effects.notice)

    def write_now(self, effects: Effects) -> Tell:
        """Write; return what tells watchers, later."""
        self.confirm_unless(effects)
        try:
            self._write(effects)
        except LiflError:
            self._tell(effects.notice)
            raise
        return lambda: self._tell(effects.notice)

    def flush(self) -> None:
        """Write what is not written yet; what fails is tried again with the next event."""
        if self.removed:
            self._unwritten.clear()
        while self._unwritten:
            self._store.write(self._job, self._unwritten[0])
            self._unwritten.pop(0)

    def _write(self, effects: Effects) -> None:
        if effects.change:
            self._unwritten.append(effects.change)
        self.flush()

    def _tell(self, notice: Notice) -> None:
        if notice is Notice.NOW:
            self._revisions.bump()
        elif notice:
            self._revisions.bump_within(SECONDS[notice])
        if notice >= Notice.SHORTLY:
            for wake in self.wakers:
                wake(SECONDS[notice])
