"""Hostile headers: each is refused with a word for programs and a place for people."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from lifl.errors import UpdateError
from lifl.update import (
    MAX_HEADER_BYTES,
    Header,
    Schema,
    TensorSpec,
    check,
    header_bytes,
    parse_header,
)

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def framed(text: str | bytes, data: int = 8) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + bytes(data)


def refused(raw: bytes) -> UpdateError:
    with pytest.raises(UpdateError) as caught:
        parse_header(raw, len(raw))
    assert caught.value.detail
    return caught.value


def test_a_good_document_with_metadata() -> None:
    raw = save({"w": np.ones((2, 1), np.float32)}, metadata={"format": "np"})
    header = parse_header(raw, len(raw))
    (w,) = header.tensors
    assert (w.name, w.dtype, w.shape) == ("w", "F32", (2, 1))
    assert (w.start, w.end) == (header.data_start, len(raw))


def test_only_the_header_is_needed() -> None:
    raw = save({"w": np.ones(1000, np.float32)})
    need = header_bytes(raw[:8], len(raw))
    assert parse_header(raw[:need], len(raw)) == parse_header(raw, len(raw))
    with pytest.raises(UpdateError, match="inside its header"):
        parse_header(raw[: need - 1], len(raw))


def test_an_empty_document_has_no_tensors() -> None:
    assert parse_header(framed("{}", 0), 10).tensors == ()


@pytest.mark.parametrize("raw", [b"", b"\x02", bytes(7)])
def test_too_short(raw: bytes) -> None:
    assert refused(raw).code == "truncated"


def test_a_header_beyond_the_body() -> None:
    error = refused((1 << 63).to_bytes(8, "little") + b"{}")
    assert (error.status, error.code, error.where) == (422, "header-length", "bytes 0-7")


def test_a_huge_header() -> None:
    prefix = (MAX_HEADER_BYTES + 1).to_bytes(8, "little")
    with pytest.raises(UpdateError) as caught:
        header_bytes(prefix, 1 << 30)
    assert (caught.value.status, caught.value.code) == (413, "header-too-large")


def test_too_many_tensors() -> None:
    entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    text = "{" + ",".join(f'"{i:x}":{entry}' for i in range((1 << 16) + 1)) + "}"
    error = refused(framed(text, 0))
    assert (error.status, error.code) == (413, "too-many-tensors")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        "[]",
        ' {"w":1}',
        "{",
        '{"w":NaN}',
        '{"w":Infinity}',
        b'{"\xff":1}',
        "{" * 100_000,
        '{"a":' + "[" * 100_000,
        '{"__metadata__":3}',
        '{"w":3}',
        '{"w":{}}',
        json.dumps({"w": {**GOOD, "extra": 1}}),
        json.dumps({"w": {**GOOD, "shape": 2}}),
        json.dumps({"w": {**GOOD, "shape": [2.0]}}),
        json.dumps({"w": {**GOOD, "shape": [True, 2]}}),
        json.dumps({"w": {**GOOD, "shape": [-1, -2]}}),
        json.dumps({"w": {**GOOD, "shape": [1] * 65}}),
        json.dumps({"w": {**GOOD, "shape": [1 << 200]}}),
        '{"w":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,8]}}',
        '{"\\ud800":' + json.dumps(GOOD) + "}",
    ],
)
def test_malformed(text: str | bytes) -> None:
    error = refused(framed(text))
    assert (error.status, error.code) == (422, "malformed-header")


def test_the_same_name_twice() -> None:
    error = refused(framed('{"w":GOOD,"w":GOOD}'.replace("GOOD", json.dumps(GOOD))))
    assert (error.code, error.where) == ("duplicate-name", "w")


@pytest.mark.parametrize("dtype", ["F64", "C64", "F8_E4M3", "F4", "f32", 3, None, ["F32"]])
def test_unknown_dtypes(dtype: Any) -> None:
    error = refused(framed(json.dumps({"w": {**GOOD, "dtype": dtype}})))
    assert (error.code, error.where) == ("unknown-dtype", "w")


@pytest.mark.parametrize(
    "offsets",
    [[0, 9], [8, 0], [-8, 0], [0], [0, 8, 16], [0, 4], [0, 8.0], "08", None, [0, True]],
)
def test_bad_offsets(offsets: Any) -> None:
    error = refused(framed(json.dumps({"w": {**GOOD, "data_offsets": offsets}})))
    assert (error.code, error.where) == ("bad-offsets", "w")


@pytest.mark.parametrize(
    ("second", "data", "where"),
    [
        ([4, 12], 12, "v"),
        ([0, 8], 8, "v"),
        ([12, 20], 20, "v"),
        ([8, 16], 17, "end of data"),
    ],
)
def test_overlaps_and_gaps(second: list[int], data: int, where: str) -> None:
    text = json.dumps({"w": GOOD, "v": {**GOOD, "data_offsets": second}})
    error = refused(framed(text, data))
    assert error.code == "bad-offsets"
    assert error.where in {where, "w"}


@given(st.binary(max_size=200), st.integers(0, 300))
def test_random_bytes_never_crash(text: bytes, data: int) -> None:
    raw = framed(b"{" + text, data)
    try:
        assert isinstance(parse_header(raw, len(raw)), Header)
    except UpdateError as e:
        assert e.status in {413, 422}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["w", "v", "__metadata__"]), JSON), st.integers(0, 20))
def test_random_json_never_crashes(entries: dict[str, Any], data: int) -> None:
    raw = framed(json.dumps(entries), data)
    try:
        parse_header(raw, len(raw))
    except UpdateError as e:
        assert e.status in {413, 422}


SCHEMA = Schema([TensorSpec("w", "F32", (2,)), TensorSpec("n", "I64", ())])


def header_of(**arrays: np.ndarray[Any, Any]) -> Header:
    raw = save(arrays)
    return parse_header(raw, len(raw))


def test_layout_of_the_stock_order_is_canonical() -> None:
    layout = check(header_of(w=np.ones(2, np.float32), n=np.array(1)), SCHEMA)
    assert layout.canonical
    assert layout.float_start == SCHEMA.float_start


def test_metadata_moves_the_data_but_the_layout_stays_canonical() -> None:
    raw = save({"w": np.ones(2, np.float32), "n": np.array(1)}, metadata={"a": "b" * 99})
    layout = check(parse_header(raw, len(raw)), SCHEMA)
    assert layout.canonical
    assert layout.float_start > SCHEMA.float_start


def test_half_precision_is_allowed_and_not_canonical() -> None:
    layout = check(header_of(w=np.ones(2, np.float16), n=np.array(1)), SCHEMA)
    assert not layout.canonical
    assert layout.floats[0].dtype == "F16"


def test_floats_first_is_allowed_and_not_canonical() -> None:
    entries = {
        "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "n": {"dtype": "I64", "shape": [], "data_offsets": [8, 16]},
    }
    raw = framed(json.dumps(entries), 16)
    assert not check(parse_header(raw, len(raw)), SCHEMA).canonical


def test_another_order_of_floats_is_not_canonical() -> None:
    schema = Schema([TensorSpec("a", "F32", (2,)), TensorSpec("b", "F32", (2,))])
    entries = {"b": GOOD, "a": {**GOOD, "data_offsets": [8, 16]}}
    raw = framed(json.dumps(entries), 16)
    layout = check(parse_header(raw, len(raw)), schema)
    assert not layout.canonical
    assert [(p.name, p.target) for p in layout.floats] == [("b", 2), ("a", 0)]


@pytest.mark.parametrize(
    ("arrays", "code", "where"),
    [
        ({"w": np.ones(2, np.float32)}, "missing-tensor", "n"),
        (
            {"w": np.ones(2, np.float32), "n": np.array(1), "x": np.array(1)},
            "unknown-tensor",
            "x",
        ),
        ({"w": np.ones((2, 1), np.float32), "n": np.array(1)}, "wrong-shape", "w"),
        ({"w": np.ones(2, np.float32), "n": np.array([1])}, "wrong-shape", "n"),
        ({"w": np.ones(2, np.int32), "n": np.array(1)}, "wrong-dtype", "w"),
        ({"w": np.ones(2, np.float32), "n": np.array(1, np.int32)}, "wrong-dtype", "n"),
        ({"w": np.ones(2, np.float32), "n": np.array(1, np.float32)}, "wrong-dtype", "n"),
    ],
)
def test_documents_unlike_the_schema(
    arrays: dict[str, np.ndarray[Any, Any]], code: str, where: str
) -> None:
    with pytest.raises(UpdateError) as caught:
        check(header_of(**arrays), SCHEMA)
    assert (caught.value.status, caught.value.code, caught.value.where) == (422, code, where)
