from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.cluster.resources import MOST, NOTHING, Resources, pod_requests, quantity

DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
FACTORS = {s: Fraction(10) ** e for s, e in DECIMAL.items()} | {
    s: Fraction(1024) ** e for s, e in BINARY.items()
}

numbers = st.one_of(
    st.integers(0, 10**12).map(str),
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**9)).map(lambda t: f"{t[0]}.{t[1]}"),
    st.integers(0, 10**6).map(lambda n: f".{n}"),
    st.integers(0, 10**6).map(lambda n: f"{n}."),
)


def exact(number: str) -> Fraction:
    """The number without a suffix: Fraction wants digits on both sides of the point."""
    whole, _, part = number.partition(".")
    return Fraction(f"{whole or 0}.{part or 0}")


@given(numbers, st.sampled_from(sorted(FACTORS)), st.sampled_from(["", "+", "-"]))
def test_a_quantity_is_what_it_says_rounded_away_from_zero(
    number: str, suffix: str, sign: str
) -> None:
    value = exact(number) * FACTORS[suffix]
    for scale in (0, 3):
        size = min(math.ceil(value * 10**scale), MOST)
        assert quantity(sign + number + suffix, scale) == (-size if sign == "-" else size)


@given(numbers, st.integers(-30, 30), st.sampled_from(["e", "E"]), st.sampled_from([0, 3]))
def test_exponents(number: str, exponent: int, letter: str, scale: int) -> None:
    value = exact(number) * Fraction(10) ** (exponent + scale)
    assert quantity(f"{number}{letter}{exponent}", scale) == min(math.ceil(value), MOST)


@pytest.mark.parametrize(
    ("text", "units", "thousandths"),
    [
        ("0", 0, 0),
        ("250m", 1, 250),
        ("1500m", 2, 1500),
        ("0.1", 1, 100),
        ("1", 1, 1000),
        ("2E", 2 * 10**18, MOST),
        ("1E3", 1000, 10**6),
        ("1e3", 1000, 10**6),
        ("12e-1", 2, 1200),
        ("1Ki", 1024, 1024000),
        ("1.5Gi", 3 * 2**29, 3 * 2**29 * 1000),
        ("100n", 1, 1),
        ("1u", 1, 1),
        ("1e999999999", MOST, MOST),
        ("1e-999999999", 1, 1),
        ("0e999999999", 0, 0),
        ("9Ei", MOST, MOST),
        (2, 2, 2000),
        (0.5, 1, 500),
    ],
)
def test_known_quantities(text: str | float, units: int, thousandths: int) -> None:
    assert quantity(text) == units
    assert quantity(text, 3) == thousandths


@pytest.mark.parametrize(
    "text", ["", " ", "1 ", "one", "1K", "1ki", "1mi", ".", "-", "1e", "1ee3", "1Gi3", "١", "1_0"]
)
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


def test_an_endless_quantity_is_refused_and_not_quoted_whole() -> None:
    with pytest.raises(ValueError, match="not a quantity") as e:
        quantity("9" * 100_000)
    assert len(str(e.value)) < 300


amounts = st.integers(0, 1000)
resources = st.builds(
    Resources,
    amounts,
    amounts,
    amounts,
    amounts,
    st.dictionaries(st.sampled_from(["a/gpu", "b/gpu"]), amounts).map(
        lambda d: tuple(sorted(d.items()))
    ),
)


@given(resources, resources)
def test_sums_and_differences_belong_together(one: Resources, two: Resources) -> None:
    both = one + two
    left = both - two
    assert (left.cpu, left.memory, left.ephemeral, left.pods) == (
        one.cpu,
        one.memory,
        one.ephemeral,
        one.pods,
    )
    assert {k: v for k, v in left.other if v} == {k: v for k, v in one.other if v}
    assert one + two == two + one
    assert one.fits(both)


@given(resources, resources)
def test_it_fits_exactly_when_nothing_asked_for_is_too_little(
    one: Resources, room: Resources
) -> None:
    there = dict(room.other)
    fits = (
        one.cpu <= room.cpu
        and one.memory <= room.memory
        and one.ephemeral <= room.ephemeral
        and one.pods <= room.pods
        and all(v <= there.get(k, 0) for k, v in one.other)
    )
    assert one.fits(room) == fits
    assert bool(one.lacking(room)) != fits


def test_what_is_not_asked_for_cannot_be_lacking_on_an_overfull_node() -> None:
    over = Resources(cpu=-5, memory=-5, ephemeral=-1, pods=3)
    assert Resources(pods=1).fits(over)
    assert Resources(cpu=1, pods=1).lacking(over) == ["Insufficient cpu"]


def test_what_lacks_is_named() -> None:
    asked = Resources(2, 2, 2, 2, (("nvidia.com/gpu", 1),))
    assert asked.lacking(NOTHING) == [
        "Too many pods",
        "Insufficient cpu",
        "Insufficient memory",
        "Insufficient ephemeral-storage",
        "Insufficient nvidia.com/gpu",
    ]


def box(cpu: str, memory: str = "0", **more: Any) -> dict[str, Any]:
    return {
        "name": more.pop("name", "x"),
        "resources": {"requests": {"cpu": cpu, "memory": memory}},
        **more,
    }


ALWAYS = {"restartPolicy": "Always"}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({}, 0),
        ({"containers": [{"name": "x"}]}, 0),
        ({"containers": [box("1"), box("500m")]}, 1500),
        ({"containers": [box("1")], "initContainers": [box("3")]}, 3000),
        ({"containers": [box("2")], "initContainers": [box("1"), box("1")]}, 2000),
        # a sidecar runs beside the containers ...
        ({"containers": [box("1")], "initContainers": [box("1", **ALWAYS)]}, 2000),
        # ... and beside the init containers after it, not before it
        ({"containers": [box("1")], "initContainers": [box("1", **ALWAYS), box("3")]}, 4000),
        ({"containers": [box("1")], "initContainers": [box("3"), box("1", **ALWAYS)]}, 3000),
        # two that come before any container runs beside them
        (
            {"containers": [], "initContainers": [box("1", **ALWAYS), box("1", **ALWAYS)]},
            2000,
        ),
        ({"containers": [box("1")], "overhead": {"cpu": "250m"}}, 1250),
        ({"containers": [box("1")], "resources": {"requests": {"cpu": "3"}}}, 3000),
        ({"containers": [box("1")], "resources": {"requests": {"memory": "1"}}}, 1000),
    ],
)
def test_requests_as_kubernetes_counts_them(spec: dict[str, Any], cpu: int) -> None:
    asked = pod_requests(spec, {})
    assert (asked.cpu, asked.pods) == (cpu, 1)


def test_devices_and_storage_count_too() -> None:
    limits = {"ephemeral-storage": "1Gi", "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi"}
    spec = {"containers": [{"name": "a", "resources": {"requests": limits}}] * 2}
    asked = pod_requests(spec, {})
    assert asked.ephemeral == 2 * 2**30
    assert asked.other == (("hugepages-2Mi", 2 * 2**22), ("nvidia.com/gpu", 4))


def test_while_a_container_is_resized_the_greater_counts() -> None:
    spec = {"containers": [box("1", name="a"), box("1", name="b")]}
    status = {
        "containerStatuses": [
            {"name": "a", "allocatedResources": {"cpu": "3"}},
            {"name": "b", "resources": {"requests": {"cpu": "500m"}}},
        ]
    }
    assert pod_requests(spec, status).cpu == 4000
