"""Time and what is short of it: processors and lines that are shared, and turns that are taken.

Why: the model says who wants how much of what; here it becomes seconds. Work goes on by
processor sharing: with more jobs than processors all are equally slow, as under the kernel's fair
scheduler, and one job never uses more than one processor. It must not know what is
simulated.

Events of simpy cannot be taken back, so a timer that turns out to be too early looks again
and one that is too late is left to fire in vain; callbacks in place of simpy's
processes keep a million updates at some microseconds each.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable

import simpy

Done = Callable[[], None]
_TINY = 1e-12


class Shared:
    """``capacity`` units a second, shared equally; a job takes at most ``each`` of them.

    Processors: capacity is their number, work is in processor seconds. A line: capacity is in
    bytes a second, work in bytes. ``used`` is the work done so far.

    All jobs progress at the same rate, so the order in which they end does not change while they
    run: ``_credit`` is the work that a job has been given that was there all the time, and a job
    ends when that has grown by its own work. Starting and ending cost O(log jobs).
    """

    def __init__(self, env: simpy.Environment, capacity: float, each: float = 1.0) -> None:
        if capacity <= 0 or each <= 0:
            raise ValueError("nothing can be shared of nothing")
        self.env = env
        self.capacity = capacity
        self.used = 0.0
        self.most = 0.0
        self._each = min(each, capacity)
        self._jobs: list[tuple[float, int, Done, int]] = []
        self._running = 0
        self._number = itertools.count()
        self._credit = 0.0
        self._rate = self._each
        self._at = env.now
        self._armed = float("inf")

    def run(self, work: float, done: Done, number: int = 1) -> None:
        """Do ``work``, then call ``done``.

        ``number`` jobs of so much work each begin now, and so end at the same moment: ``done`` is
        called once for all of them.
        """
        self._advance()
        heapq.heappush(self._jobs, (self._credit + work, next(self._number), done, number))
        self._running += number
        self._set_rate()
        self._arm()

    def settle(self) -> float:
        """Return the work done until now."""
        self._advance()
        return self.used

    def _advance(self) -> None:
        now = self.env.now
        if now > self._at:
            grown = (now - self._at) * self._rate
            if self._jobs:
                self._credit += grown
                self.used += grown * self._running
            self._at = now

    def _set_rate(self) -> None:
        if not self._jobs:
            self._credit = 0.0  # sums of many numbers lose digits
            return
        self._rate = min(self._each, self.capacity / self._running)
        self.most = max(self.most, self._rate * self._running)

    def _arm(self) -> None:
        if not self._jobs:
            return
        wait = max(0.0, (self._jobs[0][0] - self._credit) / self._rate)
        due = self.env.now + wait
        if due < self._armed:
            self._armed = due
            self.env.timeout(wait, due).callbacks.append(self._fired)

    def _fired(self, event: simpy.Event) -> None:
        if event.value != self._armed:
            return  # an earlier one was wanted since
        self._armed = float("inf")
        self._advance()
        ended = []
        while self._jobs and self._over(self._jobs[0][0]):
            _, _, done, number = heapq.heappop(self._jobs)
            self._running -= number
            ended.append(done)
        self._set_rate()
        self._arm()
        for done in ended:
            done()

    def _over(self, end: float) -> bool:
        left = end - self._credit
        return left <= _TINY * max(1.0, end) or self.env.now + left / self._rate <= self.env.now


class Turn:
    """One at a time, first come, first served: ``enter(job)`` calls ``job`` when it is its turn.

    The job calls :meth:`leave` when it is done.
    """

    def __init__(self) -> None:
        self._waiting: deque[Done] = deque()
        self._taken = False

    def enter(self, job: Done) -> None:
        """Have ``job`` called, now or when all before it have left."""
        if self._taken:
            self._waiting.append(job)
        else:
            self._taken = True
            job()

    def leave(self) -> None:
        """Let the next in."""
        if self._waiting:
            self._waiting.popleft()()
        else:
            self._taken = False


def after(env: simpy.Environment, seconds: float, done: Done) -> None:
    """Call ``done`` in so many seconds."""
    env.timeout(seconds).callbacks.append(lambda _: done())


class All:
    """Calls ``done`` when it was itself called ``number`` times."""

    __slots__ = ("_done", "_left")

    def __init__(self, number: int, done: Done) -> None:
        self._left = number
        self._done = done

    def __call__(self) -> None:
        """Count one."""
        self._left -= 1
        if not self._left:
            self._done()
