"""What is written whole is written or not, and a write that failed takes nothing with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.knowledge.policy import Evidence
from stepwell.knowledge.records import Records
from tests.knowledge.shop import ALL, REFUNDS, STALE, learn, shop

HALF = "half of a surrogate pair \ud800"
"""SQLite takes no such text."""


@pytest.mark.parametrize(
    "write",
    [
        lambda records, name: records.set_hashes({"customers": "2", "orders": HALF}),
        lambda records, name: records.validate({name: {"customers": "2", "orders": HALF}}),
        lambda records, name: records.bury(name, HALF, by="dpo", at="now"),
    ],
    ids=["set_hashes", "validate", "bury"],
)
def test_after_a_write_that_failed_the_next_ones_are_kept(
    tmp_path: Path, write: Callable[[Records, str], None]
) -> None:
    with shop(tmp_path) as base:
        name, *_ = learn(base, STALE)
        base.drift({"orders": "1"})
        with pytest.raises(UnicodeEncodeError):
            write(base._parts.records, name)
        made = base.capture(REFUNDS, by="ann", evidence=Evidence.EXECUTED)
        base.drift(dict(base.schema()))
    with shop(tmp_path) as base:
        assert base.entry(made.id).payload == REFUNDS
        assert base.entry(name).payload == STALE and base.schema() == {"orders": "1"}
        assert base._parts.records.validated() == {}


def test_the_index_goes_on_after_a_write_that_failed(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        (first,) = learn(base, STALE)
        index = base._parts.index
        odd = replace(base.entry(first), id=HALF)
        with pytest.raises(UnicodeEncodeError):
            index.put([odd])
        names = learn(base, *ALL)
        assert index.ids() == {first, *names}
    with shop(tmp_path) as base:
        assert base._parts.index.ids() == {first, *names}
