"""Jobs that were deleted, until their names are free again.

Why: what a job had goes at once, but a node that has not heard yet still holds its
pool. A new job of that name would find the old one's models and settled assignments
in there. So the name is kept, by a marker in the store, until the controller says
that no node has the pool any more; a successor of this process goes on with it.
It must not know HTTP, nor running jobs.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from functions.coordinator.records import JobRecord, JobState
from functions.coordinator.state import StateStore

log = logging.getLogger("lifl.coordinator")


class Leaving:
    """The names that are on their way out. Callers see to it that calls do not overlap."""

    def __init__(self, store: StateStore, checkpoints: Path) -> None:
        self._store = store
        self._checkpoints = checkpoints
        self._markers: dict[str, JobRecord] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._markers

    @property
    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(self._markers)

    def uids(self) -> Iterable[int]:
        """Return the users whose processes may still run."""
        return [m.domain_uid for m in self._markers.values()]

    def remember(self, marker: JobRecord) -> None:
        """Go on with a deletion that a predecessor began."""
        self._markers[marker.name] = marker
        if not self.clean(marker.name):
            self.given_up(marker.name)

    def remove(self, record: JobRecord) -> None:
        """Forget all of a job but its name; raises Unavailable, and then nothing has happened."""
        marker = replace(record, state=JobState.DELETED, spec={}, auth_key="", schema=None)
        self._store.remove_job(record.name, marker)
        self._markers[record.name] = marker
        log.info("job %s is deleted", record.name)

    def clean(self, name: str) -> bool:
        """Remove a deleted job's model versions; return whether it ever had a pool."""
        folder = self._checkpoints / name
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            log.warning("job %s: %s could not be removed", name, folder)
        return self._markers[name].geometry is not None

    def given_up(self, name: str) -> bool:
        """No node has the pool any more: free the name; return whether it was on its way out.

        Raises Unavailable.
        """
        if name not in self._markers:
            return False
        self._store.remove_job(name)
        del self._markers[name]
        log.info("job %s: the name is free again", name)
        return True
