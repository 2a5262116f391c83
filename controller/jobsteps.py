"""The two ways in which a step of a FederatedJob is not done.

Why: where a model comes from and where a job goes to fail alike, and both say to the
job's user what was wrong. It must not do I/O.
"""

from __future__ import annotations

from controller.cluster.federatedjob import Step
from lifl.errors import PermanentError, TemporaryError

RETRY_SECONDS, RARE_SECONDS = 2.0, 20.0
"""Until a step is tried again; the second if only a person can help."""


class Waits(TemporaryError):
    """A step could not be done yet."""

    def __init__(self, reason: str, message: str, retry_after: float = RETRY_SECONDS) -> None:
        super().__init__(message, retry_after=retry_after)
        self.step = Step(False, reason, message)


class GivesUp(PermanentError):
    """A step cannot be done: trying again changes nothing."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.step = Step(False, reason, message, final=True)
