from __future__ import annotations

import numpy as np

from bench.compare.serverful import protocol
from bench.harness import model_document


def test_header_and_floats_of_a_document():
    document = model_document(100_000)
    header, floats = protocol.split(document)
    assert header + bytes(floats) == document
    assert len(floats) == 100_000


def test_messages_are_a_mebibyte_and_whole_floats():
    floats = memoryview(np.arange(300_000, dtype=np.float32)).cast("B")
    messages = protocol.pieces(floats)
    assert [len(m) for m in messages] == [1 << 20, 1_200_000 - (1 << 20)]
    assert b"".join(messages) == bytes(floats)


def test_what_an_aggregator_is_told_comes_back():
    assert protocol.described(protocol.describe(b"header", 44_800_000)) == (b"header", 11_200_000)
