"""Which revisions are asked for, from an activator's own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.demand import asked_for

ESCAPED = """\
# HELP kn_revision_request_queued Number of requests currently queued in the activator
# TYPE kn_revision_request_queued gauge
kn_revision_request_queued{k8s_namespace_name="lifl",kn_revision_name="aggregator-00001"} 1
kn_revision_request_queued{k8s_namespace_name="lifl",kn_revision_name="idle-00001"} 0
kn_revision_request_active{k8s_namespace_name="lifl",kn_revision_name="busy-00001",otel="x"} 2
kn_revision_request_concurrency{kn_configuration_name="c",kn_revision_name="mean-00001",\
kn_service_name="c",k8s_namespace_name="other"} 0.25
http_server_request_duration_seconds_count{kn_revision_name="past-00001"} 12
kn_revision_request_queued_total{k8s_namespace_name="lifl",kn_revision_name="past-00002"} 3
"""
QUOTED = """\
{"kn.revision.request.queued","k8s.namespace.name"="lifl","kn.revision.name"="a-00001"} 1
{"kn.revision.request.queued","k8s.namespace.name"="lifl","kn.revision.name"="b-00001"} 0 1700000000
"""


def test_queued_active_and_mean_concurrency_count() -> None:
    assert asked_for([ESCAPED]) == {
        ("lifl", "aggregator-00001"),
        ("lifl", "busy-00001"),
        ("other", "mean-00001"),
    }


def test_names_may_be_quoted() -> None:
    assert asked_for([QUOTED]) == {("lifl", "a-00001")}


def test_one_of_several_activators_is_enough() -> None:
    idle = ESCAPED.replace("} 1", "} 0").replace("} 2", "} 0").replace("0.25", "0")
    assert asked_for([idle]) == frozenset()
    assert asked_for([idle, ESCAPED]) == asked_for([ESCAPED])


@pytest.mark.parametrize(
    "line",
    [
        "kn_revision_request_queued",
        "kn_revision_request_queued{",
        'kn_revision_request_queued{kn_revision_name="a"} many',
        'kn_revision_request_queued{kn_revision_name="a} 1',
        'kn_revision_request_queued{k8s_namespace_name="lifl"} 1',
        'kn_revision_request_queued{kn_revision_name="a"} NaN',
        "kn_revision_request_queued 5",
        '{"kn.revision.request.queued"} 5',
    ],
)
def test_what_cannot_be_read_is_left_out(line: str) -> None:
    assert asked_for([f"{line}\n"]) == frozenset()


@given(st.text(), st.text())
def test_anything_can_be_read(before: str, after: str) -> None:
    asked_for([f"{before}kn_revision_request_queued{after}", before + after])


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1),
    st.integers(-3, 3),
)
def test_names_come_through_as_they_are(name: str, value: int) -> None:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    line = (
        f'kn_revision_request_queued{{k8s_namespace_name="n",kn_revision_name="{quoted}"}} {value}'
    )
    assert asked_for([line]) == ({("n", name)} if value > 0 else set())
