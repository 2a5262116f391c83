"""What a client does next, decided from what the gateway says.

Why: polling, training once, sending again what was lost and never looping hot
is a small state machine; as a pure one it can be tested with every answer a
gateway may give. It must not do I/O.
"""

from __future__ import annotations

import enum

from lifl.client.round import Task


class Action(enum.Enum):
    """The next step."""

    STOP = "the job is over"
    WAIT = "nothing to do: poll again"
    RESEND = "the update sent in this round is wanted again"
    TRAIN = "train and submit"


class Agenda:
    """Remembers which rounds are behind this client.

    ``after`` is what to ask the gateway: wait for a round later than this one.
    """

    def __init__(self) -> None:
        self.after: int | None = None
        self._finished: int | None = None

    def judge(self, task: Task, kept: int | None) -> Action:
        """Return what ``task`` asks for; ``kept`` is the round of the update still at hand."""
        if task.is_over:
            return Action.STOP
        if task.state == "open" and task.selected and task.your_update != "accepted":
            if kept == task.round:
                return Action.RESEND
            if task.your_update == "lost" or not self._is_behind(task.round):
                return Action.TRAIN
        self._wait(task)
        return Action.WAIT

    def finish(self, number: int) -> None:
        """Note that this client is done with a round, whatever came of it.

        A gateway that lags may ask for an earlier one in between: later ones stay behind.
        """
        self._finished = self.after = max(number, self._finished or number)

    def _is_behind(self, number: int) -> bool:
        return self._finished is not None and number <= self._finished

    def _wait(self, task: Task) -> None:
        """Ask for what comes after ``task``; a round that has yet to open may still be ours."""
        if task.state == "waiting" and not self._is_behind(task.round):
            self.after = task.round - 1 if task.round > 0 else None
        else:
            self.after = task.round
