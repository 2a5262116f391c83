"""Values: NaN and infinity are found wherever they stand; sums see exact float32."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from lifl.errors import UpdateError
from lifl.update import (
    FiniteCheck,
    Layout,
    Schema,
    check,
    flatten,
    float_blocks,
    integer_section,
    merge_integers,
    parse_header,
    widen,
)

Arrays = dict[str, np.ndarray[Any, Any]]
FLOAT_TYPES = [np.float32, np.float16, ml_dtypes.bfloat16]


def prepared(arrays: Arrays) -> tuple[bytes, Layout]:
    raw = save(arrays)
    return raw, check(parse_header(raw, len(raw)), Schema.of(arrays))


def feed(raw: bytes, layout: Layout, cuts: list[int]) -> None:
    checker = FiniteCheck(layout)
    data = memoryview(raw)[layout.header.data_start :]
    bounds = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    for low, high in pairwise(bounds):
        checker.feed(data[low:high])


def model(dtype: Any = np.float32) -> Arrays:
    return {
        "b": np.linspace(-1, 1, 13).astype(dtype),
        "a": np.ones((3, 5), np.float32),
        "c": np.full(7, 2.0).astype(dtype),
        "e": np.zeros(0, dtype),
        "n": np.array([-1, 2], np.int64),
        "flag": np.array([True, False, True]),
    }


@given(st.sampled_from(FLOAT_TYPES), st.lists(st.integers(0, 200), max_size=12))
def test_finite_values_pass_however_they_are_cut(dtype: Any, cuts: list[int]) -> None:
    raw, layout = prepared(model(dtype))
    feed(raw, layout, cuts)


@given(
    st.sampled_from(FLOAT_TYPES),
    st.sampled_from([("b", 0), ("b", 12), ("a", 0), ("a", 14), ("c", 3), ("c", 6)]),
    st.sampled_from([np.nan, -np.nan, np.inf, -np.inf]),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_the_first_bad_element_is_named_however_it_is_cut(
    dtype: Any, place: tuple[str, int], value: float, cuts: list[int]
) -> None:
    arrays = model(dtype)
    name, element = place
    arrays[name].reshape(-1)[element] = value
    raw, layout = prepared(arrays)
    with pytest.raises(UpdateError) as caught:
        feed(raw, layout, cuts)
    error = caught.value
    assert (error.status, error.code, error.where) == (422, "not-finite", f"{name}[{element}]")


def test_byte_by_byte() -> None:
    arrays = model(np.float16)
    arrays["c"][6] = np.inf
    raw, layout = prepared(arrays)
    with pytest.raises(UpdateError, match="element 6 of the tensor 'c'"):
        feed(raw, layout, list(range(len(raw))))


@pytest.mark.parametrize(
    ("dtype", "extreme"),
    [
        (np.float32, np.finfo(np.float32).max),
        (np.float16, np.finfo(np.float16).max),
        (ml_dtypes.bfloat16, ml_dtypes.finfo(ml_dtypes.bfloat16).max),
        (np.float32, np.finfo(np.float32).smallest_subnormal),
    ],
)
def test_extreme_finite_values_pass(dtype: Any, extreme: Any) -> None:
    arrays: Arrays = {"w": np.full(100_000, extreme, dtype)}
    raw, layout = prepared(arrays)
    feed(raw, layout, [70_001])


def test_integers_that_look_like_nan_pass() -> None:
    arrays: Arrays = {"w": np.ones(2, np.float32), "n": np.full(4, -1, np.int64)}
    raw, layout = prepared(arrays)
    feed(raw, layout, [3])


@given(st.integers(0, 0xFFFF))
def test_widening_is_exact(bits: int) -> None:
    raw = np.array([bits], np.uint16)
    out = np.empty(1, np.float32)
    for dtype, kind in (("BF16", ml_dtypes.bfloat16), ("F16", np.float16)):
        widen(raw if dtype == "BF16" else raw.view(np.float16), dtype, out)
        want = raw.view(kind).astype(np.float32)
        assert np.array_equal(out, want, equal_nan=True)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("block", [1, 5, 1 << 16])
def test_blocks_cover_the_float_vector_in_schema_order(dtype: Any, block: int) -> None:
    arrays = model(dtype)
    raw, layout = prepared(arrays)
    schema = Schema.of(arrays)
    got = np.full(schema.float_elements, np.nan, np.float32)
    for at, x in float_blocks(raw, layout, block=block):
        got[at : at + len(x)] = x
    want = np.concatenate([arrays[s.name].reshape(-1).astype(np.float32) for s in schema.floats])
    assert np.array_equal(got, want)


def test_float32_blocks_are_views() -> None:
    raw, layout = prepared(model())
    whole = np.frombuffer(raw, np.uint8)
    assert all(np.shares_memory(x, whole) for _, x in float_blocks(raw, layout) if len(x))


def test_flatten_gives_the_canonical_sections() -> None:
    arrays = model(np.float16)
    raw, layout = prepared(arrays)
    schema = Schema.of(arrays)
    floats = np.empty(schema.float_elements, np.float32)
    integers = bytearray(schema.int_bytes)
    flatten(raw, layout, floats, integers)
    assert bytes(integers) == arrays["n"].tobytes() + arrays["flag"].tobytes()
    assert np.array_equal(floats[:15], np.ones(15))


def test_integers_merge_by_maximum_in_any_order() -> None:
    updates: list[Arrays] = [
        {
            "w": np.ones(1, np.float32),
            "n": np.array(n, np.int64),
            "u": np.array([u], np.uint64),
            "f": np.array([f]),
        }
        for n, u, f in [(5, 1 << 63, False), (-3, 2, True), (9, 0, False)]
    ]
    schema = Schema.of(updates[0])
    sections = [integer_section(*prepared(u)) for u in updates]
    results = set()
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        kept = bytearray(sections[order[0]])
        for i in order[1:]:
            merge_integers(kept, sections[i], schema)
        results.add(bytes(kept))
    want = np.uint64(1 << 63).tobytes() + np.int64(9).tobytes() + b"\x01"
    assert results == {want}
