"""Probes say why not; metrics are Prometheus' text."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from controller.pages import PageServer
from lifl.pages import Pages


def get(pages: PageServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pages.port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


@pytest.mark.usefixtures("no_leaks")
def test_probes_and_metrics() -> None:
    registry, trouble = CollectorRegistry(), [""]
    Gauge("lifl_x", "x", registry=registry).set(3)
    pages = PageServer(("127.0.0.1", 0), Pages(registry, not_ready=lambda: trouble[0]))
    try:
        assert get(pages, "/healthz") == (200, "ok\n")
        assert get(pages, "/readyz?x=1") == (200, "ok\n")
        trouble[0] = "the certificate is not there yet"
        assert get(pages, "/readyz") == (503, "the certificate is not there yet\n")
        assert "lifl_x 3.0" in get(pages, "/metrics")[1]
        assert get(pages, "/")[0] == 404
    finally:
        pages.close()
