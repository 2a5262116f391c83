"""How long a function keeps a connection that nobody uses.

Why: the proxies before a function keep connections for their next request (Knative's queue-proxy
and activator for the 90 seconds of Go's ``DefaultTransport``, of which theirs are clones). The
proxy must be the one that closes: a request that it sends into a connection just closed here
fails half-way, and a proxy does not send a body twice. gunicorn's own two seconds are about what
passes between two partial sums. It must not decide what ends a connection in use.
"""

from __future__ import annotations

PROXIES_SECONDS = 90
"""``IdleConnTimeout`` of Go's ``net/http.DefaultTransport``."""
KEEPALIVE_SECONDS = PROXIES_SECONDS + 10
