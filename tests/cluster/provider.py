"""The proxy half of OpenFaaS's provider, for its gateway where the provider does not run.

::

    python -m tests.cluster.provider 8081 &
    functions_provider_url=http://127.0.0.1:8081/ openfaas-gateway

Like faas-netes it strips /function/NAME and passes a request to a random ready address of the
Endpoints NAME, port 8080, bodies chunked as OpenFaaS's gateway sends them. It is for tests:
it must not do more than pass on.
"""

from __future__ import annotations

import http.client
import random
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.cluster.kube import kubectl
from tests.cluster.openfaas import NAMESPACE

PIECE = 1 << 18
KNOWN_SECONDS = 2.0
HOP = {"connection", "transfer-encoding", "keep-alive", "host", "te", "upgrade"}
_known: dict[str, tuple[float, list[str]]] = {}


def addresses(name: str) -> list[str]:
    """Return the ready addresses of a function."""
    at, found = _known.get(name, (0.0, []))
    if time.monotonic() - at > KNOWN_SECONDS or not found:
        path = "{.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}"
        labels = f"kubernetes.io/service-name={name}"
        told = kubectl(
            "-n", NAMESPACE, "get", "endpointslice", "-l", labels, "-o", f"jsonpath={path}"
        )
        _known[name] = (time.monotonic(), found := told.split())
    return found


class Proxy(BaseHTTPRequestHandler):
    """Passes one request on."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        parts = self.path.split("/", 3)
        if len(parts) < 3 or parts[1] != "function":
            self.send_error(404)
            return
        found = addresses(parts[2].partition(".")[0])
        if not found:
            self.send_error(503)
            return
        to = http.client.HTTPConnection(random.choice(found), 8080, timeout=120)
        try:
            to.putrequest(
                self.command, "/" + "".join(parts[3:]), skip_host=True, skip_accept_encoding=True
            )
            to.putheader("Host", parts[2])
            for key, value in self.headers.items():
                if key.lower() not in HOP:
                    to.putheader(key, value)
            chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
            if chunked:
                to.putheader("Transfer-Encoding", "chunked")
            to.endheaders()
            for piece in self._chunks() if chunked else self._plain():
                to.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                to.send(b"0\r\n\r\n")
            answer = to.getresponse()
            self.send_response_only(answer.status, answer.reason)
            for key, value in answer.getheaders():
                if key.lower() not in HOP:
                    self.send_header(key, value)
            self.end_headers()
            while piece := answer.read(PIECE):
                self.wfile.write(piece)
        except OSError:
            self.close_connection = True
        finally:
            to.close()

    def _plain(self) -> Iterator[bytes]:
        left = int(self.headers.get("Content-Length", 0))
        while left and (piece := self.rfile.read(min(PIECE, left))):
            yield piece
            left -= len(piece)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    do_GET = do_POST = do_PUT = do_DELETE = _pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy)
    server.daemon_threads = True
    server.serve_forever()
