"""Edits, drills, prefix and speed: each measure with something planted that it must see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.evaluate import knowledge_drills
from stepwell.evaluate.knowledge_attacks import EXPRESSIONS, QUERIES, orders
from stepwell.evaluate.knowledge_drills import injection_figures, reuse_figures, tenant_figures
from stepwell.evaluate.knowledge_edits import Edit, bad_edits, harmless_edits
from stepwell.evaluate.knowledge_gate import Fate, summary, trial, unquoted
from stepwell.evaluate.knowledge_mutants import choose, mutants
from stepwell.evaluate.knowledge_prefix import Cache, prefix_figures, tokens
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_score import Judge, scoring_figures
from stepwell.evaluate.knowledge_speed import speed_figures
from stepwell.evaluate.knowledge_world import DATABASES, SchemaView, make_worlds
from stepwell.knowledge.payload import Document
from stepwell.knowledge.sql import is_query


def test_the_gate_stops_bad_edits_and_lets_harmless_ones_in() -> None:
    (world,) = make_worlds(count=1, seed=7)
    with trial(0, world) as held:
        bad = [held.fate(edit) for edit in bad_edits(0, world)]
        harmless = [held.fate(edit) for edit in harmless_edits(0, world)]
    assert len(bad) == len(harmless) == 10
    assert summary(bad, wanted=True)["blocked"] >= 9
    assert {fate.by for fate in bad} >= {"cases", "contradicts", "drift", "lint"}
    figures = summary(harmless, wanted=False)
    assert figures["blocked"] == 0 and figures["answers_turned_wrong_if_let_in"] == 0


def test_without_cases_bad_edits_come_in_and_do_harm() -> None:
    (world,) = make_worlds(count=1, seed=7)
    with trial(0, world) as held:
        held.cases = []
        found = [held.fate(edit) for edit in bad_edits(0, world)]
    figures = summary(found, wanted=True)
    assert figures["blocked"] <= 5 and figures["answers_turned_wrong_if_let_in"] > 0
    assert len(figures["not_as_wanted"]) == 10 - figures["blocked"]


def test_a_summary_counts_what_blocked() -> None:
    edit = Edit("kind", Document(title="a", text="b"))
    fates = [Fate(edit, "lint", "x", None), Fate(edit, "", "", 3)]
    figures = summary(fates, wanted=True)
    assert figures["blocked_share"] == 0.5 and figures["answers_turned_wrong_if_let_in"] == 3
    assert figures["of_each_kind"] == {"kind": {"lint": 1, "nothing": 1}}


def test_corpora_are_as_large_as_they_say() -> None:
    assert len(orders(seed=1)) == 40 and orders(seed=1) != orders(seed=2)
    assert len(QUERIES) >= 40 and len(EXPRESSIONS) >= 8
    assert is_query("SELECT 1")  # the gate is no wall


def test_what_may_be_confirmed_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_drills, "QUERIES", ("DROP TABLE t", "SELECT COUNT(*) FROM t"))
    monkeypatch.setattr(knowledge_drills, "EXPRESSIONS", ())
    figures = knowledge_drills.query_figures()
    assert figures == {"tried": 2, "let_in": ["SELECT COUNT(*) FROM t"]}


def test_orders_do_nothing_and_their_lines_are_quoted() -> None:
    figures = injection_figures(seed=3)
    assert figures["tried"] == 40
    assert figures["answers_changed"] == figures["lines_not_quoted"] == 0
    assert unquoted("[a]\n| quoted\nAnswer: SELECT 0\n") == 1


def test_tenants_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tenant_figures(seed=1, steps=30) == {"seen": 30, "crossed": 0}
    act = knowledge_drills._act
    count = [0]

    def leaky(base: object, draw: object) -> object:
        count[0] += 1
        return act(base, draw), count[0]  # type: ignore[arg-type]

    monkeypatch.setattr(knowledge_drills, "_act", leaky)
    assert tenant_figures(seed=1, steps=30)["crossed"] > 0


def test_neighbours_are_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = reuse_figures(seed=1)
    assert figures["with_neighbours"] > 0 and figures["wrong"] == 0

    def careless(text: str, view: SchemaView, context: list) -> str:
        return next((p.sql for p in context if hasattr(p, "sql")), answer(text, view, context))

    monkeypatch.setattr(knowledge_drills, "answer", careless)
    assert reuse_figures(seed=1)["wrong"] > 0


def test_a_cache_knows_whole_blocks_from_the_start() -> None:
    cache = Cache(block_size=4)
    front = " ".join("abcdefgh")  # 15 tokens
    assert len(tokens(front)) == 15
    cache.request("", front, "x" * 9)
    assert (cache.wanted, cache.hit) == (15, 0)
    cache.request("", front, "y")
    assert (cache.wanted, cache.hit) == (30, 12)
    cache.request("z", front, "y")  # one token in front moves every block
    assert (cache.wanted, cache.hit) == (45, 12)
    warm = Cache(block_size=4)
    warm.prefill("", front)
    warm.request("", front, "x")
    assert warm.hit == 12


def test_packs_hit_and_what_is_ranked_does_not() -> None:
    figures = prefix_figures(seed=2, requests=120)
    assert figures["pack_prefix_hit_rate"] > 0.9 > figures["naive_ranked"]


def test_speed_counts_what_is_confirmed_and_used() -> None:
    figures = speed_figures(seed=1, entries=200)
    assert figures["confirmed_and_not_used"] == 0
    assert 0 < figures["retrieve_p50_ms"] <= figures["retrieve_p95_ms"]


def test_databases_are_chosen_to_tell_the_most_apart() -> None:
    assert choose({0: {1}, 1: {1, 2}, 2: {3}, 3: {1, 2}}, 2) == (1, 2)
    assert len(choose({0: {1}}, 8)) == 1
    (world,) = make_worlds(count=1, seed=9)
    figures = scoring_figures([world])
    assert figures["told_apart"] >= figures["by_the_first_eight"] >= figures["by_one"] > 0
    assert figures["told_apart"] > 0.97 * figures["mutants"]
    judge = Judge((world, replace(world, month=world.month % 12 + 1)))
    assert len(judge.results(0, f"SELECT COUNT(*) FROM {world.children}")) == DATABASES
    judge.close()


def test_mutants_differ_from_their_query_by_one_change() -> None:
    view = SchemaView({"t": ("id", "a", "b")}, {})
    found = mutants("SELECT SUM(a) FROM t WHERE b = 'x' AND a >= 3", view)
    assert "SELECT AVG(a) FROM t WHERE b = 'x' AND a >= 3" in found
    assert "SELECT SUM(a) FROM t WHERE b = 'x'" in found
    assert "SELECT SUM(a) FROM t WHERE b = 'x' AND a > 3" in found
    assert "SELECT SUM(a) FROM t WHERE b = 'x' OR a >= 3" in found
    assert len(found) == len(set(found)) > 8
