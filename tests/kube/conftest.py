"""Fixtures of tests against a real Kubernetes API; `make test-kube` runs them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .apiserver import ApiServer

SCRIPT = Path(__file__).parents[2] / "scripts" / "kube-assets"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the programs made before the first test: that takes minutes, and a test may not."""
    names = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    needed = "kube_assets" in names or ("cluster" in names and not os.environ.get("KUBECONFIG"))
    if not needed or session.config.option.collectonly:
        return
    capture = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        subprocess.run([SCRIPT], check=False, stdout=subprocess.DEVNULL)  # a fixture tells failure


@pytest.fixture(scope="session")
def kube_assets() -> Path:
    """Return the directory of etcd, kube-apiserver and kubectl; a first time they are made."""
    made = subprocess.run([SCRIPT], check=False, capture_output=True, text=True)
    if made.returncode != 0:
        pytest.fail(f"scripts/kube-assets failed:\n{made.stderr}", pytrace=False)
    return Path(made.stdout.strip())


@pytest.fixture(scope="session")
def apiserver(kube_assets: Path) -> Iterator[ApiServer]:
    """Run an API server of the tests' own, which they may stop."""
    with ApiServer(kube_assets) as server:
        yield server


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Path:
    """Return a kubeconfig: of the cluster that KUBECONFIG names, or else of `apiserver`."""
    given = os.environ.get("KUBECONFIG")
    if given:
        return Path(given)
    server: ApiServer = request.getfixturevalue("apiserver")
    return server.admin
