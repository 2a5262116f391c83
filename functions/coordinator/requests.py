"""Reading of request bodies: the right members of the right types, or a clear refusal.

Why: every internal endpoint takes a small JSON object; a wrong one must be
answered with what is wrong and where, never with a traceback.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, TypeVar, overload

from flask import Request

from functions.coordinator.problems import Refused

T = TypeVar("T")
_NEEDED: Any = object()
PIECE = 1 << 20


@contextlib.contextmanager
def measured(request: Request, limit: int) -> Iterator[tuple[int, Callable[[int], bytes]]]:
    """Give a body's length and how to read it, also of one that comes in chunks.

    OpenFaaS's gateway passes every body on in chunks. How long it is is known at its end,
    so it is put into a file first, up to ``limit`` bytes. Raises Refused 411 if there is neither
    length nor chunks, 413 beyond the limit.
    """
    length = request.content_length
    if length is not None:
        yield length, request.stream.read
        return
    if request.headers.get("Transfer-Encoding", "").strip().lower() != "chunked":
        raise Refused(411, "length-required", "send Content-Length, or the body chunked")
    with tempfile.TemporaryFile() as whole:
        while piece := request.stream.read(PIECE):
            whole.write(piece)
            if whole.tell() > limit:
                raise Refused(413, "too-large", f"at most {limit} bytes are taken")
        length = whole.tell()
        whole.seek(0)
        yield length, whole.read


class Body:
    """A request's JSON object."""

    def __init__(self, request: Request) -> None:
        raw = request.get_json(force=True, silent=True)
        if not isinstance(raw, dict):
            raise Refused(400, "not-json", "the body is not a JSON object")
        self.raw: dict[str, Any] = raw

    @overload
    def get(self, name: str, kind: type[T]) -> T: ...
    @overload
    def get(self, name: str, kind: type[T], default: T | None) -> T | None: ...
    def get(self, name: str, kind: type[T], default: Any = _NEEDED) -> T | None:
        """Return a member of type ``kind``; a null one is like a missing one.

        Raises
        ------
        Refused
            422 ``bad-member`` if it is missing without a default, or of another type.
        """
        value = self.raw.get(name)
        if value is None:
            if default is _NEEDED:
                raise Refused(422, "bad-member", f"{name!r} is missing", where=name)
            return default  # type: ignore[no-any-return]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(value, float) and not isfinite(value):
            raise Refused(422, "bad-member", f"{name!r} is not finite", where=name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Refused(
                422,
                "bad-member",
                f"{name!r} is {type(value).__name__}, not {kind.__name__}",
                where=name,
            )
        return value

    def serials(self, name: str) -> tuple[int, ...]:
        """Return a list of serials."""
        return tuple(self._list(name, int))

    def names(self, name: str) -> list[str]:
        """Return a list of names."""
        return self._list(name, str)

    def _list(self, name: str, kind: type[T]) -> list[T]:
        values = self.get(name, list)
        if not all(type(v) is kind for v in values):
            raise Refused(
                422, "bad-member", f"{name!r} has items that are not {kind.__name__}", where=name
            )
        return values
