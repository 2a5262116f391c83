"""The global model: from the socket into one buffer, arrays that look at it.

Why: a model may be hundreds of megabytes and comes once a round; it is read
straight into memory that is used again for the next version, goes on where a
broken connection left off, and is not fetched twice. It must not write to a
model that somebody may still look at.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from lifl import naming
from lifl.client.http import HttpClient, Response, raise_for_status, read_into
from lifl.client.retry import Retry
from lifl.errors import Unavailable
from lifl.update import Schema, header_bytes, parse_header, views

PIECE_BYTES = 1 << 20
NOT_MODIFIED, PARTIAL_CONTENT = 304, 206
UNSHARED = 2  # references to an object that one attribute holds, as getrefcount counts them


class Model:
    """One version of the global model.

    ``arrays`` are writable views of the download: for the SDK alone. Clients
    get :meth:`read_only` views.
    """

    def __init__(self, version: int, document: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.version = version
        raw = document.data
        header = parse_header(raw[: header_bytes(raw[:8], len(raw))], len(raw))
        self.schema = Schema.from_header(header)
        self.arrays = views(raw, header)

    def read_only(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the tensors as views that cannot be written to."""
        found = {}
        for name, array in self.arrays.items():
            found[name] = array.view()
            found[name].flags.writeable = False
        return found


class ModelCache:
    """Fetches models and keeps the last one."""

    def __init__(self, http: HttpClient, retry: Retry, *, timeout: float) -> None:
        self._http = http
        self._retry = retry
        self._timeout = timeout
        self._memory: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(0, np.uint8)
        self._etag = ""
        self._got = 0
        self.model: Model | None = None

    def version(self, version: int, path: str) -> Model:
        """Return one version, from memory if it is the last one fetched.

        Raises
        ------
        HttpError
            if the gateway has no such version.
        Unavailable
            if the gateway did not answer for longer than the retry's patience.
        """
        if self.model is not None and self.model.version == version:
            return self.model
        return self.fetch(path)

    def fetch(self, path: str) -> Model:
        """Return what ``path`` names now, asking the gateway; errors as in :meth:`version`."""
        return self._retry.run(lambda: self._fetch(path))

    def _fetch(self, path: str) -> Model:
        response = self._http.request(
            "GET", path, headers=self._conditions(), timeout=self._timeout, stream=True
        )
        try:
            if response.status >= 300:
                response.read(cache_content=True)
            if response.status != NOT_MODIFIED or self.model is None:
                raise_for_status(response)
                self._receive(response)
                self.model = Model(int(response.headers[naming.HEADER_MODEL_VERSION]), self._memory)
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return self.model

    def _conditions(self) -> dict[str, str]:
        """Ask for what is missing: nothing if the model is the same, the rest if it broke off."""
        if self.model is not None:
            return {"If-None-Match": self._etag}
        if self._got and self._etag:
            return {"Range": f"bytes={self._got}-", "If-Range": self._etag}
        return {}

    def _receive(self, response: Response) -> None:
        length = int(response.headers["Content-Length"])
        if response.status != PARTIAL_CONTENT:
            self.model = None
            self._got = 0
            self._etag = response.headers.get("ETag", "")
            self._allocate(length)
        target = self._memory.data
        while self._got < len(target):
            n = read_into(response, target[self._got : self._got + PIECE_BYTES])
            if not n:
                raise Unavailable(f"the model's download ended early, at byte {self._got}")
            self._got += n

    def _allocate(self, nbytes: int) -> None:
        """Use the last model's memory again unless a view of it is still alive.

        Fresh pages cost more than the bytes that are written to them.
        """
        if self._memory.nbytes != nbytes or sys.getrefcount(self._memory) > UNSHARED:
            self._memory = np.empty(nbytes, np.uint8)
