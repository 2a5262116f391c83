"""Writes the status of FederatedJobs, and leaves events at them.

Why: a round changes many times a second and a status need not; one thread writes a job's
status when it changed, at most once a second, from what the coordinator says then. What
was written last is what the next is compared with, after a restart what the API server
has: nothing is told twice. It must not decide what a status is
(:mod:`controller.cluster.jobstatus`) nor do a job's steps.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controller.clients.api import Cluster
from controller.clients.errors import NotFound
from controller.clients.kinds import FEDERATED_JOB
from controller.cluster.federatedjob import Custom, Step, steps_of
from controller.cluster.jobnotes import notes
from controller.cluster.jobstatus import Facts, status
from controller.coordinator import World
from controller.submission import Submission
from controller.view import JobView
from lifl.errors import LiflError

log = logging.getLogger("lifl.operator")

APART_SECONDS = 1.0
"""Between two writes of one job's status."""
RETRY_SECONDS = 2.0
RATED_VERSIONS = 100
"""How far back a version may lie that is rated only now."""


def utc_now() -> str:
    """Return the time as the API server writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class _Entry:
    """One job: the object as it was seen last, and what is known besides."""

    custom: Custom
    submitted: Step
    model: Step
    written: Mapping[str, Any]
    view: JobView | None = None
    due: float | None = None
    last: float = float("-inf")
    rated: int = -1


class StatusWriter:
    """Keeps the status of all FederatedJobs. Methods may be called from any thread."""

    def __init__(
        self, cluster: Cluster, submission: Submission, *, now: Callable[[], str] = utc_now
    ) -> None:
        self._cluster = cluster
        self._submission = submission
        self._now = now
        self._entries: dict[str, _Entry] = {}
        self._views: dict[str, JobView] = {}
        self._leaving: set[str] = set()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="job-status", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what it is writing."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    # -- what is new -----------------------------------------------------------------

    def seen(self, custom: Custom) -> None:
        """Note an object as the API server has it now."""
        with self._changed:
            if custom.uid in self._leaving:
                return
            entry = self._entries.get(custom.uid)
            if entry is None:
                submitted, model = steps_of(custom.status)
                entry = _Entry(custom, submitted, model, custom.status)
                entry.view = self._views.get(custom.name)
                self._entries[custom.uid] = entry
                self._touch(entry)
            elif entry.custom.generation != custom.generation:
                self._touch(entry)
            entry.custom = custom

    def stepped(
        self, custom: Custom, *, submitted: Step | None = None, model: Step | None = None
    ) -> None:
        """Note how far the operator came."""
        self.seen(custom)
        with self._changed:
            entry = self._entries.get(custom.uid)
            if entry is None:
                return
            steps = (submitted or entry.submitted, model or entry.model)
            if steps != (entry.submitted, entry.model):
                entry.submitted, entry.model = steps
                self._touch(entry)

    def told(self, world: World) -> None:
        """Note what the coordinator told its watchers."""
        views = {view.job: view for view in world.jobs}
        with self._changed:
            self._views = views
            for entry in self._entries.values():
                view = views.get(entry.custom.name)
                if view != entry.view:
                    entry.view = view
                    self._touch(entry)

    def leaving(self, uid: str) -> None:
        """Write nothing about an object any more: it is being deleted."""
        with self._changed:
            self._entries.pop(uid, None)
            self._leaving.add(uid)

    def forget(self, uid: str) -> None:
        """Forget an object that is gone."""
        with self._changed:
            self._entries.pop(uid, None)
            self._leaving.discard(uid)

    # -- inside ----------------------------------------------------------------------

    def _touch(self, entry: _Entry, pause: float = 0.0) -> None:
        at = max(time.monotonic() + pause, entry.last + APART_SECONDS)
        entry.due = at if entry.due is None else min(entry.due, at)
        self._changed.notify_all()

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            try:
                again = self._refresh(entry)
            except NotFound:
                self.forget(entry.custom.uid)
                continue
            except LiflError as e:
                log.info("%s: its status is not written yet: %s", entry.custom.name, e)
                again = True
            except Exception:
                log.exception("%s: its status could not be made", entry.custom.name)
                again = True
            with self._changed:
                entry.last = time.monotonic()
                if again:
                    self._touch(entry, RETRY_SECONDS)
                if entry.due is not None:
                    entry.due = max(entry.due, entry.last + APART_SECONDS)

    def _next(self) -> _Entry | None:
        """Wait for an entry that is due and return it; None at the end."""
        with self._changed:
            while not self._ended:
                waiting = [e for e in self._entries.values() if e.due is not None]
                first = min(waiting, key=lambda e: e.due or 0.0, default=None)
                pause = None if first is None else (first.due or 0.0) - time.monotonic()
                if first is not None and pause is not None and pause <= 0:
                    first.due = None
                    return first
                self._changed.wait(pause)
        return None

    def _refresh(self, entry: _Entry) -> bool:
        """Write the status if it changed; return whether to try again although nothing does."""
        with self._changed:
            custom, before = entry.custom, entry.written
            facts = Facts(custom, entry.submitted, entry.model)
            plan = None if entry.view is None else entry.view.plan
        facts, again = self._asked(entry, replace(facts, plan=plan))
        made = status(before, facts, self._now())
        if made != before:
            gone: dict[str, Any] = {k: None for k in before if k not in made}
            self._cluster.patch(
                FEDERATED_JOB,
                custom.name,
                {"status": gone | made},
                custom.namespace,
                subresource="status",
            )
            entry.written = made
            for note in notes(before, made):
                log.info("%s: %s: %s", custom.name, note.reason, note.message)
                self._cluster.event(
                    custom.reference, note.reason, note.message, warning=note.warning
                )
        return again

    def _asked(self, entry: _Entry, facts: Facts) -> tuple[Facts, bool]:
        """Return the facts with what the coordinator says, and whether it did not answer."""
        if not facts.submitted.done:
            return facts, False
        try:
            job = self._submission.look(facts.custom)
            rated = None if job is None or "version" not in job else self._rating(entry, job)
        except LiflError as e:
            log.info("%s: the coordinator says nothing: %s", facts.custom.name, e)
            return facts, True
        return replace(facts, job=job, gone=job is None, accuracy=rated), False

    def _rating(self, entry: _Entry, job: Mapping[str, Any]) -> float | None:
        """Return the accuracy of the last version that was rated, None if that is known."""
        after = max(entry.rated - 1, int(job["version"]) - RATED_VERSIONS, -1)
        rows = self._submission.rounds(entry.custom, after)
        rated = [row for row in rows if row.get("accuracy") is not None]
        if not rated:
            return None
        entry.rated = int(rated[-1]["version"])
        return float(rated[-1]["accuracy"])
