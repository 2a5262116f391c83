"""The routes of the vanilla way; :mod:`functions.aggregator.vanilla` says what they mean.

It must not sum: it turns requests into items and results into replies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flask import Flask, Response, jsonify, request

from functions.aggregator.vanilla import MEDIA_BATCH, Item, Partials, Result, frames
from lifl.errors import UpdateError
from lifl.naming import HEADER_NUM_SAMPLES, MEDIA_SAFETENSORS
from lifl.settings import boolean
from lifl.store import SlotKind

HEADER_WEIGHT = "LIFL-Weight"
HEADER_ITEMS = "LIFL-Items"
PIECE = 1 << 20
_MEDIA = (MEDIA_SAFETENSORS, MEDIA_BATCH, "application/octet-stream")


def add_routes(app: Flask, partials: Partials, max_body: int, source: str) -> None:
    """Add the vanilla routes to ``app``; ``source`` names this aggregator in CloudEvents."""

    @app.post("/")
    def once() -> Response:
        if "ce-id" in request.headers:
            return event()
        return _reply(partials.once(_items(max_body), _final()))

    def event() -> Response:
        heads = request.headers
        for name in ("ce-source", "ce-type", "ce-subject"):
            if not heads.get(name):
                raise UpdateError(400, "bad-event", "the CloudEvent lacks it", where=name)
        onward = _onward()
        result = partials.add(
            heads["ce-subject"],
            _items(max_body),
            goal=_goal(heads.get("ce-liflgoal", "")),
            final=_final(),
            event=(heads["ce-source"], heads["ce-id"]),
        )
        return _answer(heads["ce-subject"], result, source, onward)

    @app.post("/v1/partials/<key>")
    def add(key: str) -> Response:
        goal = _goal(request.args.get("goal", ""))
        return _answer(key, partials.add(key, _items(max_body), goal=goal, final=_final()))

    @app.post("/v1/partials/<key>/seal")
    def seal(key: str) -> Response:
        try:
            return _reply(partials.seal(key, _final()))
        except KeyError:
            raise _unknown(key) from None

    @app.delete("/v1/partials/<key>")
    def forget(key: str) -> Response:
        try:
            partials.forget(key)
        except KeyError:
            raise _unknown(key) from None
        return Response(status=204)


def _unknown(key: str) -> UpdateError:
    return UpdateError(404, "unknown-partial", f"there is no open sum {key[:80]!r}", where="key")


def _items(max_body: int) -> Iterator[Item]:
    """Read the request's body and return the items in it.

    Raises
    ------
    UpdateError
        400, 411, 413 or 415 if it is not a body of this API.
    """
    if request.mimetype not in _MEDIA:
        raise UpdateError(
            415, "unknown-media", f"send one of {', '.join(_MEDIA)}", where="Content-Type"
        )
    length = request.content_length
    if length is None:
        raise UpdateError(411, "length-required", "say how long the body is")
    if length > max_body:
        raise UpdateError(413, "too-large", f"at most {max_body} bytes are taken")
    body = memoryview(bytearray(length))
    at = 0
    while at < length:
        piece = request.stream.read(min(PIECE, length - at))
        if not piece:
            raise UpdateError(400, "truncated", f"{length} bytes were announced, {at} came")
        body[at : at + len(piece)] = piece
        at += len(piece)
    if request.mimetype == MEDIA_BATCH:
        return frames(body)
    weight = _number(HEADER_WEIGHT, "ce-liflweight")
    if weight is not None:
        return iter([Item(body, weight, SlotKind.PARTIAL)])
    samples = _number(HEADER_NUM_SAMPLES, "ce-liflsamples")
    if samples is None:
        raise UpdateError(
            400, "header-missing", f"say {HEADER_NUM_SAMPLES} or {HEADER_WEIGHT}", where="headers"
        )
    return iter([Item(body, samples, SlotKind.UPDATE)])


def _number(*names: str) -> float | None:
    for name in names:
        raw = request.headers.get(name)
        if raw is not None:
            try:
                return float(raw)
            except ValueError:
                raise UpdateError(400, "bad-header", "it is not a number", where=name) from None
    return None


def _goal(raw: str) -> int:
    if raw and not raw.isdecimal():
        raise UpdateError(400, "bad-goal", f"goal={raw[:40]!r} is not a whole number", where="goal")
    return int(raw or 0)


def _final() -> bool:
    raw = request.args.get("final") or request.headers.get("ce-liflfinal") or "0"
    try:
        return boolean(raw)
    except ValueError as e:
        raise UpdateError(400, "bad-final", str(e), where="final") from None


def _onward() -> dict[str, str]:
    """Return what the request's event says of the sum that its own sum is a part of, if any."""
    parent = request.headers.get("ce-liflparent")
    if not parent:
        return {}
    parts = _goal(request.headers.get("ce-liflparts", ""))
    if parts < 1:
        raise UpdateError(
            400, "bad-event", "say of how many partials ce-liflparent is", where="ce-liflparts"
        )
    return {"ce-subject": parent, "ce-liflgoal": str(parts), "ce-liflfinal": "1"}


def _answer(
    key: str, result: Result | int, source: str = "", onward: Mapping[str, str] | None = None
) -> Response:
    if isinstance(result, int):
        answer = jsonify({"key": key, "items": result})
        answer.status_code = 202
        # A broker would take a body for a new event.
        return Response(status=202) if source else answer
    answer = _reply(result)
    if source:
        answer.headers["ce-specversion"] = "1.0"
        answer.headers["ce-id"] = result.event_id
        answer.headers["ce-source"] = source
        answer.headers["ce-type"] = "dev.lifl.mean" if result.mean else "dev.lifl.partial"
        answer.headers["ce-subject"] = key
        answer.headers["ce-liflweight" if not result.mean else "ce-liflsamples"] = repr(
            result.weight
        )
        if not result.mean:
            answer.headers.update(onward or {})
    return answer


def _reply(result: Result) -> Response:
    view = memoryview(result.document)
    pieces = (bytes(view[i : i + PIECE]) for i in range(0, len(view), PIECE))
    return Response(
        pieces,
        headers={
            HEADER_NUM_SAMPLES if result.mean else HEADER_WEIGHT: repr(result.weight),
            HEADER_ITEMS: str(result.items),
            "Content-Length": str(len(view)),
        },
        content_type=MEDIA_SAFETENSORS,
    )
