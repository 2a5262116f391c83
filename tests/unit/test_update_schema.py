"""The canonical layout is what the stock safetensors library writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from lifl.errors import ConfigError, UpdateError
from lifl.update import (
    DTYPES,
    Schema,
    TensorSpec,
    check,
    document_bytes,
    iter_document,
    parse_header,
    views,
)

Arrays = Mapping[str, np.ndarray[Any, Any]]

RESNET_LIKE: Arrays = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "bn.num_batches_tracked": np.array(7, dtype=np.int64),
    "bn.bias": np.ones(3, np.float32),
    "Z": np.array(2.5, np.float32),
    "empty": np.zeros((0, 5), np.float32),
    "a.counter": np.array([1, 2], dtype=np.int64),
    'naïve "quoted"\n\x7f\x01 日本 🙂': np.zeros((1, 1), np.float32),
}


def document(arrays: Arrays) -> bytes:
    return b"".join(iter_document(arrays, Schema.of(arrays)))


def test_writes_the_bytes_of_the_stock_library() -> None:
    assert document(RESNET_LIKE) == save(dict(RESNET_LIKE))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
            lambda n: n != "__metadata__"
        ),
        st.tuples(
            st.sampled_from([np.float32, np.int64, np.uint64]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        min_size=1,
    )
)
def test_any_model_of_float32_and_64_bit_integers_is_canonical_as_the_library_writes_it(
    model: dict[str, tuple[type, list[int]]],
) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        n: np.ones(shape, dtype) for n, (dtype, shape) in model.items()
    }
    arrays["w"] = np.ones(3, np.float32)
    raw = save(arrays)
    schema = Schema.of(arrays)
    assert document(arrays) == raw
    assert check(parse_header(raw, len(raw)), schema).canonical


def test_the_order_of_every_dtype_is_the_librarys() -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        f"t{i}": np.zeros(4, ml_dtypes.bfloat16 if d.name == "BF16" else d.numpy)
        for i, d in enumerate(reversed(DTYPES.values()))
    }
    raw = save(arrays)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert [entry["dtype"] for entry in header.values()] == list(DTYPES)


def test_narrow_integers_come_before_the_floats_and_the_library_reads_it() -> None:
    arrays: Arrays = {
        "flag": np.array([True, False, True]),
        "w": np.arange(5, dtype=np.float32),
        "n": np.array([3], np.int32),
        "b": np.array([1], np.int64),
    }
    schema = Schema.of(arrays)
    raw = document(arrays)
    assert [s.name for s in schema.tensors] == ["b", "n", "flag", "w"]
    assert schema.int_bytes == 8 + 4 + 3
    assert schema.float_start % 8 == 0
    assert len(raw) == schema.document_bytes == document_bytes(iter_document(arrays, schema))
    assert raw.startswith(schema.canonical_header())
    back = load(raw)
    assert all(np.array_equal(back[n], a) for n, a in arrays.items())
    assert check(parse_header(raw, len(raw)), schema).canonical
    stock = save(dict(arrays))
    layout = check(parse_header(stock, len(stock)), schema)
    assert not layout.canonical


def test_sizes_and_offsets() -> None:
    schema = Schema.of(RESNET_LIKE)
    assert schema.float_elements == 24 + 3 + 1 + 0 + 1
    assert schema.float_bytes == 4 * schema.float_elements
    assert schema.int_bytes == 8 + 16
    assert schema.offsets["a.counter"] == 0
    assert schema.offsets["bn.num_batches_tracked"] == 16
    assert [s.name for s in schema.floats][:3] == ["Z", "bn.bias", "conv.weight"]
    assert schema.offsets["conv.weight"] == 4
    assert schema.int_start + schema.int_bytes == schema.float_start


def test_json_and_file_give_the_schema_back(tmp_path: Path) -> None:
    schema = Schema.of(RESNET_LIKE)
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(dict(RESNET_LIKE), metadata={"format": "pt"}))
    assert Schema.from_file(path) == schema
    assert hash(Schema.from_file(path)) == hash(schema)


def test_a_half_precision_model_has_a_float32_schema() -> None:
    schema = Schema.of({"w": np.ones(2, np.float16), "v": np.ones(2, ml_dtypes.bfloat16)})
    assert {s.dtype for s in schema.tensors} == {"F32"}


def test_views_look_at_the_document() -> None:
    raw = bytearray(document(RESNET_LIKE))
    found = views(raw, parse_header(raw, len(raw)))
    assert all(np.array_equal(found[n], a) for n, a in RESNET_LIKE.items())
    found["bn.bias"][1] = 9.0
    assert load(bytes(raw))["bn.bias"][1] == 9.0


def test_float32_arrays_are_sent_without_a_copy() -> None:
    parts = iter_document(RESNET_LIKE, Schema.of(RESNET_LIKE))
    w = RESNET_LIKE["conv.weight"]
    assert any(np.shares_memory(np.frombuffer(p, np.uint8), w) for p in parts[1:])


def test_half_precision_documents_are_as_the_library_writes_them() -> None:
    arrays = {
        "c": np.ones(3, ml_dtypes.bfloat16),
        "b": np.full(3, 2, np.float16),
        "a": np.zeros(3, np.float32),
        "n": np.array(4, np.int64),
    }
    assert document(arrays) == save(arrays)


def test_other_memory_orders_are_put_right() -> None:
    want = np.arange(6, dtype=np.float32).reshape(2, 3)
    schema = Schema.of({"w": want})
    for w in (np.asfortranarray(want), want.astype(">f4"), want.astype(np.float64), want[::1]):
        assert b"".join(iter_document({"w": w}, schema)) == save({"w": want})


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        ({}, "missing-tensor"),
        ({"w": np.ones(2, np.float32), "v": np.ones(1, np.float32)}, "unknown-tensor"),
        ({"w": np.ones(3, np.float32)}, "wrong-shape"),
        ({"w": np.ones(2, np.int64)}, "wrong-dtype"),
        ({"w": np.ones(2, np.complex64)}, "wrong-dtype"),
    ],
)
def test_arrays_unlike_the_schema_are_refused(arrays: Arrays, code: str) -> None:
    with pytest.raises(UpdateError) as caught:
        iter_document(arrays, Schema([TensorSpec("w", "F32", (2,))]))
    assert (caught.value.status, caught.value.code) == (422, code)


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [TensorSpec("n", "I64", ())],
        [TensorSpec("w", "F32", (0,))],
        [TensorSpec("w", "F64", (1,))],
        [TensorSpec("w", "F32", (1,)), TensorSpec("w", "F32", (1,))],
        [TensorSpec("w", "F32", (-1,))],
    ],
)
def test_unusable_schemas_are_refused(tensors: list[TensorSpec]) -> None:
    with pytest.raises(ConfigError):
        Schema(tensors)


@pytest.mark.parametrize("raw", [{}, {"tensors": 3}, {"tensors": [["w", "F32"]]}])
def test_json_that_is_no_schema_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Schema.from_json(raw)


def test_a_file_that_is_no_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Schema.from_file(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is a text file")
    with pytest.raises(ConfigError, match="not a usable"):
        Schema.from_file(tmp_path / "text")
