from __future__ import annotations

import numpy as np
import pytest

from bench.compare import mean


@pytest.mark.parametrize("elements", [1, 2, 63, 64, 65, 11_200_000])
def test_places_are_the_first_the_last_and_some_in_between(elements: int):
    places = mean.places(elements)
    assert places[0] == 0
    assert places[-1] == elements - 1
    assert len(places) == len(set(places)) == min(elements, mean.PLACES)
    if elements > 1:
        assert max(np.diff(places)) <= elements / (len(places) - 1) + 1


def test_a_wrong_element_is_named():
    sent = np.linspace(-1, 1, 64, dtype=np.float32)
    mean.check("x", sent, sent * np.float32(1 + 1e-7))
    wrong = sent.copy()
    wrong[-1] = 0.5
    with pytest.raises(RuntimeError, match=r"x: 1 of 64 .* first 0\.5 where 1 was sent"):
        mean.check("x", sent, wrong)
    with pytest.raises(RuntimeError, match="63 elements"):
        mean.check("x", sent, sent[1:])


def test_nan_is_wrong():
    sent = np.zeros(4, np.float32)
    with pytest.raises(RuntimeError, match="4 of 4"):
        mean.check("x", sent, np.full(4, np.nan, np.float32))


def test_a_missing_update_shows_in_the_samples():
    mean.check_samples("x", 10 + 11 + 12, 3)
    with pytest.raises(RuntimeError, match="over 21 samples, 33 were sent"):
        mean.check_samples("x", 21, 3)
