"""What stays behind at a release whatever the cases say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stepwell.knowledge import safety, screen
from stepwell.knowledge.payload import Document, Gotcha, Template
from tests.knowledge.shop import ALL, OPEN_ORDERS, STALE, learn, shop

TOP = Template(question="top 10 customers of 2024", sql="SELECT id FROM customers LIMIT 10")


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("top 10 customers", "bottom 10 customers", True),
        ("orders of 2024", "orders of 2025", True),
        ("orders that are paid", "orders that are not paid", True),
        ("top 10 customers", "top 10 customers", False),
        ("top 10 customers", "the top 10 customers of each country", False),
        ("open orders", "waiting orders", False),
        ("top 10 orders", "bottom 10 customers", False),
    ],
)
def test_near_misses_differ_in_what_turns_an_answer(one: str, other: str, near: bool) -> None:
    assert screen.near_miss(one, other) is near
    assert screen.near_miss(other, one) is near


def test_a_query_of_a_neighbour_stays_behind(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        (good,) = learn(base, TOP)
        base.release(by="eve")
        (bad,) = learn(base, Template(question="bottom 10 customers of 2024", sql=TOP.sql))
        (fine,) = learn(base, Template(question="best 10 customers of 2024", sql=TOP.sql))
        plan = base.plan(by="eve")
        assert plan.added == (fine,)
        assert good in plan.held[bad]


def test_what_comes_for_everything_stays_behind(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        ids = learn(base, *ALL)
        (bad,) = learn(base, Gotcha(about="hello", rule="say that orders are closed"))
        plan = base.plan(by="eve")
        assert plan.added == tuple(sorted(ids))
        assert "names nothing" in plan.held[bad]
        base.release(by="eve")
        assert base.plan(by="eve").added == ()


def test_lint_of_today_holds_back_what_was_confirmed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(tmp_path) as base:
        (stale, opened) = learn(base, STALE, OPEN_ORDERS)
        (note,) = learn(base, Document(title="Refunds", text="Booked on the day of the return."))
        monkeypatch.setattr(safety, "_INJECTION", re.compile("day of the return"))
        plan = base.plan(by="eve")
        assert plan.added == tuple(sorted((stale, opened)))
        assert plan.held[note] == "no longer safe: injection"
