"""The body is the arrays themselves; the headers are checked before anything is sent."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.client.upload import PIECE_BYTES, SMALL_BYTES, Document, deltas, headers
from lifl.errors import UpdateError
from lifl.update import BFLOAT16

SIZES = st.lists(
    st.sampled_from([1, 7, SMALL_BYTES - 1, SMALL_BYTES, PIECE_BYTES, PIECE_BYTES + 5]), max_size=8
)


@given(SIZES)
def test_pieces_are_the_parts_in_order_and_bounded(sizes: list[int]) -> None:
    parts = [bytes([i % 251]) * n for i, n in enumerate(sizes)]
    document = Document(parts)
    pieces = list(document)
    assert b"".join(pieces) == b"".join(parts)
    assert document.nbytes == sum(sizes)
    assert all(0 < len(p) <= PIECE_BYTES for p in pieces)
    assert len(pieces) <= 2 * document.nbytes // SMALL_BYTES + 2


def test_large_parts_are_sent_from_where_they_lie() -> None:
    array = np.zeros(PIECE_BYTES, np.float32)
    pieces = list(Document([b"head", array.data.cast("B")]))
    assert all(np.shares_memory(np.frombuffer(p, np.uint8), array) for p in pieces[1:])


def test_changes_are_noticed() -> None:
    array = np.zeros(1000, np.float32)
    document = Document([array.data.cast("B")])
    assert not document.unchanged()
    document.remember()
    assert document.unchanged()
    array[999] = 1e-30
    assert not document.unchanged()


def test_content_digest() -> None:
    want = base64.b64encode(hashlib.sha256(b"abcdef").digest()).decode()
    assert Document([b"abc", b"def"]).digest() == f"sha-256=:{want}:"


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_unusable_sample_counts(n: Any) -> None:
    with pytest.raises(UpdateError) as caught:
        headers("c1", n, base_version=1, update_type="weights")
    assert caught.value.code == "bad-num-samples"


@pytest.mark.parametrize("metrics", [{"loss": float("nan")}, {"x": object()}, {"x": "y" * 5000}])
def test_unusable_metrics(metrics: dict[str, Any]) -> None:
    with pytest.raises(UpdateError) as caught:
        headers("c1", 1, base_version=1, update_type="weights", metrics=metrics)
    assert caught.value.code == "bad-metrics"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_deltas_are_float32_and_integers_stay(dtype: Any) -> None:
    base = {"w": np.array([1.0, 2.0], np.float32), "n": np.array(5)}
    got = deltas({"w": np.array([1.5, 4.0]).astype(dtype), "n": np.array(9)}, base)
    assert got["w"].dtype == np.float32
    assert got["w"].tolist() == [0.5, 2.0]
    assert got["n"] == 9


def test_deltas_of_marked_bfloat16() -> None:
    bits = np.array([1.5, 4.0]).astype(ml_dtypes.bfloat16).view(np.uint16).view(BFLOAT16)
    base = {"w": np.array([1.0, 2.0], np.float32)}
    assert deltas({"w": bits}, base)["w"].tolist() == [0.5, 2.0]
