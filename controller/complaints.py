"""What is wrong, logged once in a while and not at every look.

Why: loops look again and again, and meet the same trouble each time. It must not decide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("lifl.controller")

REPEAT_SECONDS = 60.0
"""How often the same words are logged."""


class Complaints:
    """Warnings that were logged lately; for one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, words: str) -> bool:
        """Log a warning unless it was logged lately; return whether it was now."""
        now = self._clock()
        self._said = {w: at for w, at in self._said.items() if now - at < REPEAT_SECONDS}
        if words in self._said:
            return False
        self._said[words] = now
        log.warning("%s", words)
        return True
