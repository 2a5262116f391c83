"""Where a FederatedJob's initial model comes from, if the operator can get it.

Why: a model may be larger than memory, so it is passed on piece by piece. A URL is asked
from inside the cluster on behalf of whoever may make a job: only those that begin as the
platform allows are, no redirect is followed, and what is said of one leaves out whatever
may be secret in it. It must not send a model.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import urllib3

from controller.clients.api import Cluster
from controller.clients.kinds import CONFIG_MAP
from controller.cluster.federatedjob import Custom
from controller.jobsteps import RARE_SECONDS, GivesUp, Waits
from lifl.client.http import HttpClient
from lifl.errors import Unavailable

FETCH_SECONDS = 60.0
PIECE = 1 << 20
ANY_URL = ("https://", "http://")


class Model(NamedTuple):
    """A model on its way: its length in bytes, and the bytes."""

    length: int
    pieces: Iterable[bytes]


class ModelSource:
    """ConfigMaps beside jobs, and URLs that begin with one of ``allowed``."""

    def __init__(self, cluster: Cluster, allowed: Sequence[str] = ANY_URL) -> None:
        self._cluster = cluster
        self._allowed = tuple(allowed)

    @staticmethod
    def has(custom: Custom) -> bool:
        """Whether the job names a source that can be read from here."""
        return not (custom.spec.get("model") or {}).keys().isdisjoint({"url", "configMap"})

    @contextlib.contextmanager
    def open(self, custom: Custom) -> Iterator[Model]:
        """Open the job's source, which it has.

        Raises
        ------
        Waits, GivesUp
            with the step to show.
        """
        place = custom.spec["model"]
        if "configMap" in place:
            raw = self._config_map(custom, **place["configMap"])
            yield Model(len(raw), (raw,))
        else:
            with self._fetched(str(place["url"])) as model:
                yield model

    def _config_map(self, custom: Custom, name: str, key: str) -> bytes:
        found = self._cluster.find(CONFIG_MAP, name, custom.namespace)
        if found is None:
            message = f"there is no ConfigMap {name} in namespace {custom.namespace}"
            raise Waits("ModelUnavailable", message, RARE_SECONDS)
        try:
            if key in (found.get("binaryData") or {}):
                return base64.b64decode(found["binaryData"][key], validate=True)
            return str(found["data"][key]).encode()
        except (KeyError, TypeError, binascii.Error):
            message = f"the ConfigMap {name} has no usable key {key}"
            raise Waits("ModelUnavailable", message, RARE_SECONDS) from None

    @contextlib.contextmanager
    def _fetched(self, url: str) -> Iterator[Model]:
        parts = urlsplit(url)
        shown = f"spec.model.url at {parts.hostname}"
        if not url.startswith(self._allowed):
            allowed = ", ".join(self._allowed)
            raise GivesUp("ModelRefused", f"{shown}: models are fetched from {allowed} only")
        client = HttpClient(f"{parts.scheme}://{parts.netloc}", timeout=FETCH_SECONDS)
        with contextlib.closing(client):
            try:
                path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
                plain = {"Accept-Encoding": "identity"}
                response = client.request("GET", path, headers=plain, stream=True)
            except Unavailable:
                raise Waits("ModelUnavailable", f"{shown}: no answer", RARE_SECONDS) from None
            with contextlib.closing(response):
                length = response.headers.get("Content-Length", "")
                if response.status != 200 or not length.isdecimal():
                    what = f"HTTP status {response.status}, Content-Length {length or 'missing'}"
                    raise Waits("ModelUnavailable", f"{shown}: {what}", RARE_SECONDS)
                yield Model(int(length), _pieces(response))


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    yield from response.stream(PIECE, decode_content=False)
