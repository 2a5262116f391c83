"""What an upload says of itself, judged before a byte of its body is read.

Why: most wrong uploads can be refused by their headers, for nothing. Pure: it
must not do I/O and must not touch the pool.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import Headers

from functions.gateway.problems import Refused
from functions.gateway.views import JobView
from lifl.errors import ConfigError
from lifl.naming import (
    HEADER_BASE_VERSION,
    HEADER_CLIENT,
    HEADER_METRICS,
    HEADER_NUM_SAMPLES,
    HEADER_UPDATE_TYPE,
    MEDIA_SAFETENSORS,
    check_client,
)

MAX_SAMPLES = 1 << 40
MAX_VERSION = 1 << 32
MAX_METRICS_BYTES = 4096
_MEDIA = frozenset({"", MEDIA_SAFETENSORS, "application/octet-stream"})


@dataclass(frozen=True, slots=True)
class UploadHead:
    """The headers of an upload; ``sha256`` is the digest it was sent with."""

    client: str
    num_samples: int
    base_version: int | None
    update_type: str | None
    metrics: dict[str, Any] | None
    sha256: bytes | None

    def claim(self, view: JobView, round_number: int, node: str, nbytes: int) -> dict[str, Any]:
        """Return what the coordinator is asked."""
        asked: dict[str, Any] = {
            "job": view.job,
            "round": round_number,
            "client": self.client,
            "node": node,
            "num_samples": self.num_samples,
            "nbytes": nbytes,
            "update_type": self.update_type,
            "base_version": self.base_version,
        }
        if self.metrics is not None:
            asked["metrics"] = self.metrics
        return asked


def read_head(headers: Headers) -> UploadHead:
    """Read an upload's headers; raises Refused (400, 415, 422 or 501)."""
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Refused(
            415, "content-encoding", f"{encoding!r} bodies are not taken", where="Content-Encoding"
        )
    coding = headers.get("Transfer-Encoding", "chunked").strip().lower()
    if coding != "chunked":  # gunicorn would hand the coded bytes on
        raise Refused(
            501,
            "unknown-transfer-coding",
            f"use chunked, not {coding!r}",
            where="Transfer-Encoding",
        )
    media = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media not in _MEDIA:
        raise Refused(
            415, "media-type", f"send {MEDIA_SAFETENSORS}, not {media[:80]!r}", where="Content-Type"
        )
    kind = headers.get(HEADER_UPDATE_TYPE)
    if kind not in (None, "weights", "delta"):
        raise Refused(422, "wrong-update-type", "use weights or delta", where=HEADER_UPDATE_TYPE)
    return UploadHead(
        client=_client(headers.get(HEADER_CLIENT)),
        num_samples=_number(headers, HEADER_NUM_SAMPLES, 1, MAX_SAMPLES),
        base_version=_number(headers, HEADER_BASE_VERSION, 0, MAX_VERSION)
        if HEADER_BASE_VERSION in headers
        else None,
        update_type=kind,
        metrics=_metrics(headers.get(HEADER_METRICS)),
        sha256=_sha256(headers.get("Content-Digest")),
    )


def _client(value: str | None) -> str:
    if not value:
        raise Refused(422, "client-missing", "say which client you are", where=HEADER_CLIENT)
    try:
        return check_client(value)
    except ConfigError as e:
        raise Refused(422, "client-name", str(e), where=HEADER_CLIENT) from None


def _number(headers: Headers, name: str, low: int, high: int) -> int:
    raw = headers.get(name, "").strip()
    if raw.isascii() and raw.isdigit() and len(raw) <= 15 and low <= int(raw) <= high:
        return int(raw)
    raise Refused(
        422,
        "bad-number",
        f"{name} must be a whole number from {low} to {high}, not {raw[:40]!r}",
        where=name,
    )


def _metrics(raw: str | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        metrics = json.loads(raw) if len(raw) <= MAX_METRICS_BYTES else None
    except (ValueError, RecursionError):
        metrics = None
    if not isinstance(metrics, dict):
        raise Refused(
            422,
            "bad-metrics",
            f"metrics are a JSON object of at most {MAX_METRICS_BYTES} bytes",
            where=HEADER_METRICS,
        )
    return metrics


def _sha256(raw: str | None) -> bytes | None:
    """Return the sha-256 member of a Content-Digest field (RFC 9530)."""
    if raw is None:
        return None
    for member in raw.split(","):
        name, _, value = member.strip().partition("=")
        if name.lower() != "sha-256":
            continue
        try:
            digest = base64.b64decode(value.strip().strip(":"), validate=True)
        except binascii.Error:
            digest = b""
        if not value.startswith(":") or not value.endswith(":") or len(digest) != 32:
            break
        return digest
    else:
        return None  # only digests of kinds this server does not check
    raise Refused(400, "bad-digest", "use sha-256=:BASE64: (RFC 9530)", where="Content-Digest")
