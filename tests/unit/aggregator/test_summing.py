"""The accumulator: weights, halves, ranges, integers, and what it refuses."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from functions.aggregator import summing
from functions.aggregator.blas import BlasKernel, NumpyKernel
from functions.aggregator.summing import Input, Reader, Span, WeightedSum
from lifl.errors import ConfigError, UpdateError
from lifl.update import Schema, integer_views, iter_document


@pytest.fixture(params=[BlasKernel, NumpyKernel], ids=lambda k: k.name)
def new_sum(request, schema):
    """Return a function that makes an accumulator over dirty memory."""

    def make(span=summing.WHOLE):
        floats = np.full(schema.float_elements, np.nan, np.float32)
        integers = bytearray(b"\xff" * schema.int_bytes)
        total = WeightedSum(schema, floats, memoryview(integers), request.param(), span)
        return total, floats, integers

    return make


def document(arrays, schema) -> memoryview:
    return memoryview(b"".join(bytes(p) for p in iter_document(arrays, schema)))


def view(arrays, schema):
    return Reader().view(document(arrays, schema))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mean_of_updates(new_sum, schema, make_update, reference, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    updates = [make_update(i, kind) for i in range(3)]
    samples = [5, 1, 11]
    total, floats, integers = new_sum()
    for arrays, n in zip(updates, samples, strict=True):
        total.add([Input(view(arrays, schema), n)])
    total.seal(divide_by=sum(samples))
    close(floats, reference(schema, updates, samples))
    flags, steps = (
        np.max([u[s.name].ravel() for u in updates], axis=0) for s in reversed(schema.integers)
    )
    kept_steps, kept_flags = integer_views(memoryview(integers), schema)
    assert np.array_equal(kept_steps, steps)
    assert np.array_equal(kept_flags, flags)


def test_mixed_precision_in_one_document(new_sum, schema, make_update, reference):
    arrays = make_update(1)
    arrays["a.weight"] = arrays["a.weight"].astype(np.float16)
    total, floats, _ = new_sum()
    total.add([Input(view(arrays, schema), 2.0)])
    total.add([Input(view(make_update(2), schema), 3.0)])
    total.seal(divide_by=5.0)
    close(floats, reference(schema, [arrays, make_update(2)], [2, 3]))


def test_division_in_the_last_addition_equals_division_by_a_pass(new_sum, schema, make_update):
    (fused, in_one, _), (passes, in_two, _) = new_sum(), new_sum()
    fused.add([Input(view(make_update(1), schema), 3.0)])
    fused.add([Input(view(make_update(2), schema), 4.0)], divide_by=7.0)
    passes.add([Input(view(make_update(1), schema), 3.0)])
    passes.add([Input(view(make_update(2), schema), 4.0)])
    passes.seal(divide_by=7.0)
    close(in_one, in_two)


def test_division_in_the_only_addition(new_sum, schema, make_update, reference):
    total, floats, _ = new_sum()
    total.add([Input(view(make_update(1), schema), 3.0)], divide_by=3.0)
    close(floats, reference(schema, [make_update(1)], [3]))


@pytest.mark.parametrize("span", [summing.WHOLE, Span(10, 40_000)])
@pytest.mark.parametrize("divide_by", [1.0, 11.0])
def test_together_is_one_by_one(new_sum, schema, make_update, span, divide_by):
    """Whatever their layout, into an empty sum and into one that holds something."""
    kinds = ("float32", "float16", "float32")
    inputs = [Input(view(make_update(i, k), schema), float(i)) for i, k in enumerate(kinds, 1)]
    inputs.append(Input(view(make_update(4), schema)))  # a partial result
    for held in (0, 1):
        (one_by_one, expected, steps), (together, got, kept) = new_sum(span), new_sum(span)
        for number, item in enumerate(inputs, 1):
            one_by_one.add([item], divide_by if number == len(inputs) else 1.0)
        if held:
            together.add(inputs[:held])
        together.add(inputs[held:], divide_by)
        lo, hi = span.within(schema.float_elements)
        close(got[lo:hi], expected[lo:hi])
        assert np.isnan(got[:lo]).all()
        assert np.isnan(got[hi:]).all()
        assert kept == steps


def test_one_that_does_not_fit_keeps_all_of_its_company_out(new_sum, schema, make_update):
    total, floats, _ = new_sum()
    other = {"w": np.zeros(3, np.float32)}
    fitting = Input(view(make_update(1), schema), 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        total.add([fitting, Input(view(other, Schema.of(other)), 1.0)])
    assert np.isnan(floats).all()


def test_merge_takes_sums_as_they_are(new_sum, schema, make_update):
    total, floats, _ = new_sum()
    total.add([Input(view(make_update(1), schema))])
    total.add([Input(view(make_update(2), schema))])
    close(floats, 2 * _mean_of_two(schema, make_update))


def _mean_of_two(schema, make_update):
    flat = [np.concatenate([make_update(i)[s.name].ravel() for s in schema.floats]) for i in (1, 2)]
    return (flat[0] + flat[1]) / 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("span", [Span(0, 4), Span(10, 40_000), Span(69_000, 0), Span(5, 10**9)])
def test_a_range_leaves_the_rest_alone(new_sum, schema, make_update, reference, span, dtype):
    updates = [make_update(i, dtype) for i in (1, 2)]
    total, floats, _ = new_sum(span)
    for arrays in updates:
        total.add([Input(view(arrays, schema), 1.0)])
    total.seal(divide_by=2.0)
    lo, hi = span.within(schema.float_elements)
    assert 0 <= lo < hi <= schema.float_elements
    close(floats[lo:hi], reference(schema, updates, [1, 1])[lo:hi])
    assert np.isnan(floats[:lo]).all()
    assert np.isnan(floats[hi:]).all()


def test_shards_together_are_the_whole(new_sum, schema, make_update, reference):
    updates = [make_update(i) for i in (1, 2)]
    parts = []
    for span in (Span(0, 30_000), Span(30_000, 0)):
        total, floats, _ = new_sum(span)
        for arrays in updates:
            total.add([Input(view(arrays, schema), 1.0)])
        total.seal(divide_by=2.0)
        parts.append(floats[slice(*span.within(schema.float_elements))])
    close(np.concatenate(parts), reference(schema, updates, [1, 1]))


def test_refusals(new_sum, schema, make_update):
    total, _, _ = new_sum()
    with pytest.raises(ValueError, match="nothing"):
        total.seal()
    other = {"w": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="does not fit"):
        total.add([Input(view(other, Schema.of(other)), 1.0)])
    total.add([Input(view(make_update(1), schema), 1.0)])
    total.seal()
    with pytest.raises(ValueError, match="sealed"):
        total.add([Input(view(make_update(1), schema))])


def test_reader_parses_a_header_once(schema, make_update, monkeypatch):
    calls = []
    parse = summing.parse_header
    monkeypatch.setattr(summing, "parse_header", lambda *a: calls.append(a) or parse(*a))
    reader = Reader()
    views = [reader.view(document(make_update(i), schema)) for i in range(5)]
    assert len(calls) == 1
    assert all(v.schema is views[0].schema for v in views)
    half = reader.view(document(make_update(1, "float16"), schema))
    assert len(calls) == 2
    assert half.schema is views[0].schema


def test_reader_forgets_instead_of_growing(monkeypatch):
    monkeypatch.setattr(summing, "REMEMBERED_HEADERS", 3)
    reader = Reader()
    for n in range(1, 20):
        arrays = {"w": np.zeros(n, np.float32)}
        assert reader.view(document(arrays, Schema.of(arrays))).schema.float_elements == n
        assert len(reader._known) <= 3


def test_reader_refuses_strange_documents(schema, make_update):
    good = document(make_update(1), schema)
    for bad in (b"", b"12345678", bytes(good[:-1]), bytes(good) + b"x"):
        with pytest.raises(UpdateError):
            Reader().view(memoryview(bad))
    only_integers = {"n": np.zeros(3, np.int64)}
    head = b'{"n":{"dtype":"I64","shape":[3],"data_offsets":[0,24]}}'
    raw = len(head).to_bytes(8, "little") + head + only_integers["n"].tobytes()
    with pytest.raises(ConfigError):
        Reader().view(memoryview(raw))


def test_a_known_header_over_a_body_of_another_length(schema, make_update):
    good = document(make_update(1), schema)
    reader = Reader()
    reader.view(good)
    with pytest.raises(UpdateError):
        reader.view(good[:-4])
