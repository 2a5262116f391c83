"""The node's sums grow whatever functions do: come, go, count anew, or lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ebpf.agent.work import LONGEST_NS, Ledger, Reading


def test_functions_come_and_go_and_the_sum_stays() -> None:
    ledger = Ledger()
    assert ledger.note({1: Reading(arrived=5), 2: Reading(0, 3, 300, 30)}) == (5, 3, 300, 30)
    assert ledger.note({1: Reading(arrived=7)}) == (7, 3, 300, 30)
    assert ledger.note({1: Reading(arrived=7), 3: Reading(0, 2, 50, 5)}) == (7, 5, 350, 35)
    assert ledger.note({}) == (7, 5, 350, 35)


def test_a_row_that_starts_anew_is_added_from_zero() -> None:
    ledger = Ledger()
    ledger.note({2: Reading(0, 10, 1000, 100)})
    assert ledger.note({2: Reading(0, 1, 7, 6)}) == (0, 11, 1007, 106)


def test_a_function_that_lies_is_not_believed_without_limit() -> None:
    ledger = Ledger()
    assert ledger.note({2: Reading(0, 0, 2**63, 2**63)}) == (0, 0, 0, 0)
    told = ledger.note({2: Reading(0, 2, 2**64 - 1, 2**64 - 1)})
    assert max(told.waited_ns, told.busy_ns) <= 2 * LONGEST_NS


@given(
    st.lists(
        st.dictionaries(
            st.integers(1, 5),
            st.builds(Reading, *[st.integers(0, 2**64)] * 4),
        )
    )
)
def test_sums_never_fall(history: list[dict[int, Reading]]) -> None:
    ledger, before = Ledger(), Reading()
    for readings in history:
        now = ledger.note(readings)
        assert all(a >= b for a, b in zip(now, before, strict=True))
        before = now
