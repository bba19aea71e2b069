"""Drawn worlds: the same for a seed, no pair of training in a held-out one, questions with one
right answer that the naive one is not."""

from __future__ import annotations

import random

import pytest

from stepwell.evaluate.knowledge_drawn_ask import (
    draw_queries,
    every_query,
    naive_sql,
    sql,
    traps,
    true_sql,
    without_comments,
    wordings,
)
from stepwell.evaluate.knowledge_drawn_context import SEPARATOR, context_of
from stepwell.evaluate.knowledge_drawn_course import Judge, make_course
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS
from stepwell.evaluate.knowledge_drawn_world import (
    Fact,
    Split,
    Trap,
    World,
    draw_world,
    split_of,
)
from stepwell.knowledge.render import PREAMBLE
from stepwell.knowledge.sql import parse_query
from stepwell.server.knowledge import weave

WORLDS = [draw_world(str(number), split) for number in range(20) for split in Split]


def _pairs(fact: Fact) -> list[tuple[str, str]]:
    """What a model would have to remember to answer without a context."""
    named = {
        Trap.STALE: fact.subject.partition(".")[2],
        Trap.SCALE: fact.subject.partition(".")[2],
        Trap.REMOVED: fact.subject,
        Trap.METRIC: fact.subject.partition(" ")[0],
        Trap.JOIN: fact.subject.replace(".", " "),
    }
    return [(name or named[fact.trap], answer) for name, answer in fact.answers.items()]


def test_names_are_different() -> None:
    assert len({*TABLES, *WORDS}) == len(TABLES) + len(WORDS)


def test_a_seed_is_a_world() -> None:
    assert draw_world("7", Split.TRAINING) == draw_world("7", Split.TRAINING)
    assert draw_world("7", Split.TRAINING) != draw_world("8", Split.TRAINING)
    assert draw_world("7", Split.TRAINING) != draw_world("7", Split.HELD_OUT)


@pytest.mark.parametrize("split", Split)
def test_no_pair_is_in_both_splits(split: Split) -> None:
    found = [
        split_of(*pair)
        for world in WORLDS
        if world.split is split
        for fact in world.facts
        for pair in _pairs(fact)
    ]
    assert len(found) > 100
    assert set(found) == {split}


def test_columns_of_a_table_are_different() -> None:
    for world in WORLDS:
        for columns in world.columns.values():
            assert len(set(columns)) == len(columns)


def test_queries_are_sql_with_different_true_and_naive_forms() -> None:
    for world in WORLDS[:4]:
        for query in every_query(world):
            assert parse_query(true_sql(query, world)) is not None
            assert (true_sql(query, world) == naive_sql(query)) == (not traps(query, world))
            assert len(set(wordings(query))) == 4


def test_a_worked_query_is_the_plain_one_with_comments() -> None:
    course = make_course(seed=4, worlds=1, requests=0, trapped=30, untouched=10)
    judge = Judge(course.worlds)
    for asked in course.test:
        needed = traps(asked.query, course.worlds[0])
        worked = sql(asked.query, needed, worked=True)
        assert without_comments(worked) == asked.sql != worked
        assert f"/* {asked.query.column} */" in worked
        assert judge.right(asked, worked)
    judge.close()


def test_a_judge_tells_true_from_naive() -> None:
    course = make_course(seed=3, worlds=2, requests=4, trapped=40, untouched=10)
    judge = Judge(course.worlds)
    for asked in course.test:
        assert judge.right(asked, asked.sql)
        assert judge.right(asked, asked.naive) == (not asked.trapped)
    assert not judge.right(course.test[0], "SELECT nothing FROM nowhere")
    assert not judge.right(course.test[0], "no query")
    judge.close()


def test_the_test_is_never_learnt_from() -> None:
    course = make_course(seed=3, worlds=2, requests=60, trapped=40, untouched=10)
    learnt = {(asked.world, asked.text) for asked in course.stream}
    assert not learnt & {(asked.world, asked.text) for asked in course.test}
    last = {
        values[-1]
        for world in course.worlds
        for table in world.tables.values()
        for values in table.texts.values()
    }
    assert any(asked.query.value in last for asked in course.test)
    assert all(world.split is Split.HELD_OUT for world in course.worlds)
    assert course == make_course(seed=3, worlds=2, requests=60, trapped=40, untouched=10)


def test_queries_are_drawn_of_every_form() -> None:
    found = draw_queries(WORLDS[0], random.Random(1), 200)
    assert all(
        sum(bool(getattr(query, name)) for query in found) > 20
        for name in ("flag", "measure", "parent")
    )


def test_a_context_says_every_fact_once() -> None:
    world: World = WORLDS[0]
    text = context_of([fact.payload for fact in world.facts], world.area)
    assert text.startswith(PREAMBLE)
    assert SEPARATOR == weave.SEPARATOR
    assert text.count("\n[") == len(world.facts)
    assert text.index("[metric-") < text.index("[gotcha-")
