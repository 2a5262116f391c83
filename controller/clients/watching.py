"""One watch: changes as they come, until it is stopped from another thread.

Why: who watches is parked in a read most of the time; ending it must not wait for
the next change. It must not decide anything.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import urllib3

from controller.clients import errors
from lifl.errors import Unavailable


class Watch:
    """Iterate over ``(type, object)`` of every change.

    Types are ADDED, MODIFIED, DELETED and BOOKMARK (an object with nothing but a newer
    version). Ends when the server ends it, or :meth:`stop` is called.

    Raises
    ------
    Expired
        when the version it began with is too old: list again.
    Unavailable
        when the connection breaks.
    """

    def __init__(self, response: urllib3.BaseHTTPResponse, doing: str) -> None:
        self._response = response
        self._doing = doing
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        try:
            for line in self._lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raw = json.dumps(status).encode()
                    raise errors.of(int(status.get("code", 500)), raw, self._doing)
                yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError, ValueError, KeyError) as e:
            if not self._stopped.is_set():
                raise Unavailable(f"{self._doing}: {e}") from e
        finally:
            self._response.close()

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for chunk in self._response.stream(amt=None, decode_content=True):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line for line in whole if line)

    def stop(self) -> None:
        """End the iteration in whichever thread it is parked."""
        self._stopped.set()
        with contextlib.suppress(ValueError):  # it has ended by itself
            self._response.shutdown()
