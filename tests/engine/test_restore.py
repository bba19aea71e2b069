"""How far computing may go while chunks are being loaded."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from stepwell.engine.restore import Pace, Restore


def restore(pace: Pace, *pending: int) -> Restore:
    return Restore(16, pace, pending={index: 100 + index for index in pending})


def test_waiting_computes_nothing_until_all_is_reported() -> None:
    one = restore(Pace.WAIT, 0, 1)
    one.ended(0, arrived=True)
    assert one.runnable(0) == 0
    one.ended(1, arrived=False)
    assert one.advance(0, last=40) == 16
    assert one.runnable(16) is None


def test_overtaking_computes_up_to_the_first_pending_chunk_and_passes_it() -> None:
    one = restore(Pace.OVERTAKE, 3, 4, 5)
    assert one.runnable(0) == 48 and one.reached(0, 512) == []
    assert one.runnable(48) == 0 and one.reached(48, 20) == [103, 104]
    one.ended(3, arrived=False)
    one.ended(4, arrived=True)
    assert one.runnable(48) == 16, "chunk 3 is computed, then chunk 4 is jumped over"
    assert one.advance(64, last=200) == 80
    assert one.reached(80, 1) == [105]


def test_a_landed_chunk_that_computing_has_passed_is_forgotten() -> None:
    one = restore(Pace.OVERTAKE, 2)
    one.ended(2, arrived=True)
    assert one.advance(40, last=100) == 40
    assert one.over


def test_the_last_token_is_always_computed() -> None:
    one = restore(Pace.WAIT, 0, 1)
    one.ended(0, arrived=True)
    one.ended(1, arrived=True)
    assert one.advance(0, last=31) == 31
    assert one.over


@given(
    pending=st.sets(st.integers(0, 12)),
    landed=st.sets(st.integers(0, 12)),
    computed=st.integers(0, 200),
    pace=st.sampled_from(Pace),
)
def test_computing_never_enters_a_pending_chunk(
    pending: set[int], landed: set[int], computed: int, pace: Pace
) -> None:
    one = restore(pace, *(pending | landed))
    for index in landed - pending:
        one.ended(index, arrived=True)
    computed = one.advance(min(computed, 16 * min(pending, default=99)), last=208)
    count = one.runnable(computed)
    end = 209 if count is None else computed + count
    for index in pending:
        assert end <= index * 16 or computed >= (index + 1) * 16
