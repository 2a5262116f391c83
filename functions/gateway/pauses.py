"""Letting others run between two pieces of work.

Why: ``gevent.sleep(0)`` only runs what is ready already; the sockets are not asked
for news until it was called some fifty times. A greenlet that receives pieces of
a millisecond each would keep everybody who waits for an answer waiting for fifty
milliseconds. A timer that is due at once makes the loop look at the sockets too, for
about a microsecond more. It must not know who pauses, or why.
"""

from __future__ import annotations

from gevent import get_hub


def let_others_run() -> None:
    """Return when everything that is ready has run, what waits on sockets included."""
    hub = get_hub()
    now = hub.loop.timer(0)
    try:
        hub.wait(now)
    finally:
        now.close()
