from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bench.compare import mean, updates
from bench.harness import model_document

STEP = 65536
DOCUMENT = model_document(40_000_000)


def test_tensors_have_the_documents_names_and_cover_all_floats_in_order():
    values = updates.floats(DOCUMENT)
    tensors = updates.tensors(DOCUMENT, values)
    assert len(tensors) == 62
    assert next(iter(tensors)) == "layer00.weight"
    assert np.array_equal(np.concatenate([t.ravel() for t in tensors.values()]), values)
    assert all(np.shares_memory(t, values) for t in tensors.values())


def test_no_part_of_an_update_equals_another_part_or_another_clients():
    first = updates.ramped(DOCUMENT)
    parts = set()
    for client in range(3):
        values = first * np.float32(updates.factor(client))
        for tensor in updates.tensors(DOCUMENT, values).values():
            raw = tensor.tobytes()
            parts |= {
                hashlib.sha256(raw[i : i + 65536]).digest() for i in range(0, len(raw), 65536)
            }
    sizes = [len(t.tobytes()) for t in updates.tensors(DOCUMENT, first).values()]
    assert len(parts) == 3 * sum(-(-size // STEP) for size in sizes)


def test_the_mean_at_places_is_that_of_the_updates():
    clients = [0, 2, 5]
    first = updates.ramped(DOCUMENT)
    weights = [(mean.samples(i), updates.factor(i)) for i in clients]
    whole = sum(n for n, _ in weights)
    exact = sum(n * f * first.astype(np.float64) for n, f in weights) / whole
    places = mean.places(len(first))
    found = updates.mean_at(DOCUMENT, places, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact[places], rtol=2e-7)
    missing = updates.mean_at(DOCUMENT, places, weights[1:])
    with pytest.raises(RuntimeError, match="elements of the mean are wrong"):
        mean.check("x", found, missing)


def test_other_dtypes_are_refused():
    document = DOCUMENT.replace(b'"F32"', b'"I32"', 1)
    with pytest.raises(ValueError, match=r"layer00\.weight is I32"):
        updates.tensors(document, updates.floats(DOCUMENT))
