"""Which revisions are asked for, read from what Knative's activator says of itself.

Why: at zero pods the activator holds the requests, and for autoscaler classes that are not
Knative's own nobody else tells that there are any. Only the lines of three gauges are looked
at; they come in Prometheus' text format, with names escaped (``kn_revision_request_queued``)
or quoted (``{"kn.revision.request.queued", ...}``). It must not do I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

Revision = tuple[str, str]
"""Namespace and name."""

GAUGES = frozenset(
    f"kn_revision_request_{word}"  # held for lack of pods; on their way; the last second's mean
    for word in ("queued", "active", "concurrency")
)
NAMESPACE, NAME = "k8s_namespace_name", "kn_revision_name"

_LABEL = re.compile(
    r"""\s*(?P<key>"(?:[^"\\]|\\.)*"|[A-Za-z_:][\w:.]*)\s*(?:=\s*(?P<value>"(?:[^"\\]|\\.)*"))?\s*(?:,|$)"""
)
_LINE = re.compile(
    r"""(?P<name>[A-Za-z_:][\w:.]*)?\s*(?:\{(?P<labels>(?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?\s+(?P<value>\S+)"""
)
_MARK = re.compile(r"kn[._]revision[._]request[._]")


def asked_for(texts: Iterable[str]) -> frozenset[Revision]:
    """Return the revisions with requests at any of the activators that said ``texts``."""
    return frozenset(rev for text in texts for rev, value in _gauges(text) if value > 0)


def _gauges(text: str) -> Iterator[tuple[Revision, float]]:
    for line in text.splitlines():
        if line.startswith("#") or not _MARK.search(line):
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        labels, quoted = _labels(found["labels"] or "")
        name = (found["name"] or quoted).replace(".", "_")
        if name not in GAUGES or NAME not in labels:
            continue
        try:
            value = float(found["value"])
        except ValueError:
            continue
        yield (labels.get(NAMESPACE, ""), labels[NAME]), value


def _labels(raw: str) -> tuple[dict[str, str], str]:
    """Return a line's labels, and the metric's name if it stands among them."""
    labels, name, at = {}, "", 0
    while at < len(raw):
        found = _LABEL.match(raw, at)
        if found is None or found.end() == at:
            break
        at = found.end()
        key = _unquoted(found["key"])
        if found["value"] is None:
            name = key
        else:
            labels[key.replace(".", "_")] = _unquoted(found["value"])
    return labels, name


def _unquoted(raw: str) -> str:
    if not raw.startswith('"'):
        return raw
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], raw[1:-1])
