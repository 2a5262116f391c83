"""Fixtures of the tests on a cluster; `make test-cluster` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.figures import Figures
from tests.cluster.install import Installation, available
from tests.cluster.kube import kubectl, query
from tests.cluster.settings import KNOWN, Settings

SECONDS = 900


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for `lifl` on each platform, one after the other."""
    if "lifl" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("platforms")
    wanted = only.args if only else KNOWN
    metafunc.parametrize("lifl", [p for p in KNOWN if p in wanted], indirect=True, scope="session")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "platforms(*names): the platforms that this is about")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)  # noqa: PTH120 - compared with text
    for item in items:
        if str(item.path).startswith(here) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Return the settings; skips where there is no cluster to test."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster; see docs/cluster-run.md")
    return Settings.from_env()


@pytest.fixture(scope="session")
def platforms(settings: Settings) -> tuple[str, ...]:
    """Return the platforms to test."""
    return settings.platforms or available()


@pytest.fixture(scope="session")
def lifl(
    request: pytest.FixtureRequest, settings: Settings, platforms: tuple[str, ...]
) -> Iterator[Installation]:
    """Return LIFL on one platform, installed for the tests and taken off afterwards."""
    if request.param not in platforms:
        pytest.skip(f"{request.param} is not among this cluster's platforms")
    found = Installation(request.param, settings)
    if settings.installed:
        assert found.is_ready(), "LIFL_CLUSTER_INSTALLED=1, and not all of it is ready"
        yield found
        return
    try:
        found.install()
        yield found
    finally:
        if not settings.keep:
            found.uninstall()


@pytest.fixture(scope="session")
def figures(settings: Settings) -> Iterator[Figures]:
    """Return where measurements go; written at the end."""
    found = Figures(settings)
    yield found
    found.write()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Add the cluster's state to a failure."""
    report = yield
    on = getattr(item, "funcargs", {}).get("lifl")
    if report.failed and isinstance(on, Installation):
        report.sections.append(("pods", kubectl("get", "pods", "-A", "-o", "wide", check=False)))
        for namespace, labels in (
            ("lifl-system", "app.kubernetes.io/part-of=lifl"),
            (on.namespace, "lifl.dev/function"),
        ):
            pods = query("-n", namespace, "get", "pods", "-l", labels)["items"]
            for name in (p["metadata"]["name"] for p in pods):
                log = kubectl("-n", namespace, "logs", name, "--tail=40", check=False)
                report.sections.append((f"log of {name}", log))
    return report
