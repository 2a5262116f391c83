"""Models as arrays and documents: there and back, means, and how far off one is."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare import models
from bench.compare.models import Arrays


def test_documents_and_back() -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, np.float32)}
    found = models.arrays_of(models.document_of(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)


def test_average_is_weighted() -> None:
    updates: list[Arrays] = [{"a": np.full(2, v, np.float32)} for v in (1.0, 4.0)]
    assert models.average(updates, [1, 3])["a"].tolist() == [3.25, 3.25]


def test_same_tells_how_far_off_a_model_is() -> None:
    one = {"a": np.array([1.0, -2.0], np.float32)}
    other = {"a": np.array([1.0, -1.5], np.float32)}
    document = models.document_of(one)
    assert models.same(document, document) == 0
    assert models.same(models.document_of(other), document) == pytest.approx(0.25)
    with pytest.raises(RuntimeError, match="other tensors"):
        models.same(models.document_of({"b": one["a"]}), document)
