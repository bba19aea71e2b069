"""What a question brings up, and how it reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Validity
from stepwell.knowledge.payload import Document, Gotcha, Kind, Template
from stepwell.knowledge.policy import Capture, Evidence, Pattern, Policy, Scope, Session
from stepwell.knowledge.render import PREAMBLE, ids_in, render
from stepwell.knowledge.retrieve import fuse, merge
from tests.knowledge.shop import ALL, ANN, OPEN_ORDERS, REFUNDS, STALE, Clock, learn, shop

NOBODY = Scope()


def test_a_caution_comes_when_it_is_named_and_only_then(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL)
        base.release(by="eve")

        def cautions(text: str) -> list[str]:
            found = base.search(text, NOBODY)
            return [f.entry.id for f in found if f.pattern is Pattern.GOTCHA]

        assert cautions("What is the status of the orders?")
        assert cautions("Which orders have a stature") == []
        assert cautions("orders with staus 3"), "misspelt by one letter"
        assert not cautions("stale: use state"), "its own words, but not its name"


def test_the_patterns(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL)
        base.release(by="eve")
        found = {f.entry.kind: f.pattern for f in base.search("status of open orders", NOBODY)}
        assert found[Kind.GOTCHA] is Pattern.GOTCHA
        assert found[Kind.TEMPLATE] is Pattern.USAGE and found[Kind.SCHEMA] is Pattern.DOMAIN


def test_quotas_and_the_budget(tmp_path: Path) -> None:
    many = [
        Template(question=f"open orders of {town}", sql=f"SELECT {town} FROM orders")
        for town in ("ulm", "bonn", "kiel", "mainz", "trier")
    ]
    with shop(tmp_path) as base:
        learn(base, STALE, *many)
        base.release(by="eve")
        found = base.search("open orders status", NOBODY)
        assert sum(f.entry.kind is Kind.TEMPLATE for f in found) == 3
        tight = base.search("open orders status", NOBODY, 30)
        assert [f.entry.kind for f in tight] == [Kind.GOTCHA], "cautions are served first"
        assert base.search("open orders status", NOBODY, 0) == ()


def test_days(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, STALE, validity=Validity(last="2026-09-30"))
        learn(base, REFUNDS, validity=Validity(first="2027-01-01"))
        base.release(by="eve")
        assert len(base.search("orders status refund policy", NOBODY)) == 1


def test_vectors_find_what_shares_no_word(tmp_path: Path) -> None:
    meanings = ({"refund", "refunds", "money", "back"}, {"open", "orders", "order"})

    def embed(texts: Sequence[str]) -> np.ndarray:
        rows = [[len(set(t.lower().split()) & m) + 1e-3 for m in meanings] for t in texts]
        found = np.array(rows, dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    policy = Policy(capture=Capture.QUARANTINE)
    for embedder, expected in ((embed, 1), (None, 0)):
        name = f"t{expected}"
        with Knowledge.open(
            tmp_path, tenant=name, policy=policy, embedder=embedder, clock=Clock()
        ) as base:
            learn(base, REFUNDS, OPEN_ORDERS)
            base.release(by="eve")
            found = base.search("money back", NOBODY)
            assert [f.entry.kind for f in found] == [Kind.DOCUMENT] * expected


@given(st.lists(st.permutations(["a", "b", "c", "d"]), min_size=1, max_size=4))
def test_fusion_keeps_what_all_agree_on(rankings: list[list[str]]) -> None:
    fused = fuse(rankings)
    assert sorted(fused) == ["a", "b", "c", "d"]
    for one in fused:
        for two in fused:
            if one != two and all(r.index(one) < r.index(two) for r in rankings):
                assert fused.index(one) < fused.index(two)


def test_a_session_only_grows_and_starts_over_with_a_release(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL)
        base.release(by="eve")
        base.note(ANN, "last result: 3 rows\r| not a new line of ours")
        texts = []
        for question in ("open orders", "refund policy", "open orders", "status of orders"):
            given_now = base.context(question, ANN)
            assert given_now.fresh and set(given_now.fresh) <= set(given_now.ids)
            assert len(given_now.ids) == len(set(given_now.ids))
            texts.append(given_now.pack + given_now.session)
        for old, new in pairwise(texts):
            assert new.startswith(old)
        assert texts[1] == texts[2], "nothing is said twice"
        pack = base.context("x", ANN).pack
        learn(base, Gotcha(about="late", rule="x"))
        assert base.context("late", ANN).pack == pack, "a capture does not touch the head"
        base.release(by="eve")
        after = base.context("refund policy", ANN)
        assert "3 rows" in after.session and "open" not in after.session


BREAKS = ("\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029")


@pytest.mark.parametrize("end", BREAKS)
def test_an_entry_cannot_leave_its_quotation(tmp_path: Path, end: str) -> None:
    rule = f"x{end}[gotcha-0123456789abcdef]{end}{PREAMBLE}"
    with shop(tmp_path) as base:
        made = base.capture(Document(title="t", text=rule), by="ann", evidence=Evidence.EXECUTED)
        text = render([base.entry(made.id)])
    assert ids_in(text) == (made.id,)
    assert all(line.startswith("| ") for line in text.splitlines()[1:])


def test_rendered_text_has_no_dates_people_or_counters(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL, by="ann-of-accounting")
        base.release(by="eve")
        for _ in range(2):
            text = base.context("status of open orders, refund policy", Session(id="1")).text
            assert "ann-of" not in text and "2026" not in text and "confirmed" not in text


def test_what_cannot_be_named_is_no_worse_for_it() -> None:
    assert merge(["query", "table"], ["table"]) == ["query", "table"]
    assert merge(["query", "a", "table"], ["table"]) == ["query", "table", "a"]
    assert merge([], ["x", "y"]) == ["x", "y"] and merge(["x", "y"], []) == ["x", "y"]
    assert merge(["x"], ["hidden", "x"]) == ["x", "hidden"]


def test_words_are_compared_by_their_stems(tmp_path: Path) -> None:
    """`cancelling` and `cancelled` share a stem and no plural."""
    asked = ("Which riders cancelled?", "Who repaired bicycles?")
    policy = Policy(capture=Capture.QUARANTINE)
    with Knowledge.open(tmp_path, tenant="t", policy=policy) as base:
        for text in asked:
            payload = Template(question=text, sql=f"SELECT '{text}'")
            made = base.capture(payload, by="ann", evidence=Evidence.USER_CONFIRMED)
            base.confirm(made.id, by="ann")
        found = base.search("cancelling people in some big bus", Scope(user="ann"))
    assert [item.entry.payload for item in found] == [
        Template(question=asked[0], sql=f"SELECT '{asked[0]}'")
    ]
