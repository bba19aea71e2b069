"""Level A of the knowledge base: worlds, questions, the reader and what decides who is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from stepwell.evaluate.knowledge_arms import Arms
from stepwell.evaluate.knowledge_events import attacker, drift, rollback
from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_loop import Course, Score, make_course, run_test
from stepwell.evaluate.knowledge_outcome import STRETCH, Outcome, cost, curve, pooled
from stepwell.evaluate.knowledge_questions import Question, questions
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_score import Judge
from stepwell.evaluate.knowledge_teach import wrong_fact, wrong_sql
from stepwell.evaluate.knowledge_world import (
    DATABASES,
    MOST_WORLDS,
    TRAPS,
    make_worlds,
    schema_hashes,
)
from stepwell.knowledge.payload import Payload, Template


@pytest.fixture(scope="module")
def course() -> Iterator[Course]:
    made = make_course(make_worlds(count=3, seed=5), seed=5, requests=150)
    yield made
    made.judge.close()


def told(course: Course, question: Question, *, wrong: bool = False) -> list[Payload]:
    world = course.worlds[question.world]
    known = [facts(world)[trap] for trap in question.traps]
    return [(wrong_fact(fact, world) if wrong else fact).payload for fact in known]


def test_worlds_are_seeded_and_share_no_table() -> None:
    worlds = make_worlds(count=MOST_WORLDS, seed=3)
    assert worlds == make_worlds(count=MOST_WORLDS, seed=3)
    assert worlds != make_worlds(count=MOST_WORLDS, seed=4)
    tables = [table for world in worlds for table in world.columns()]
    assert len(tables) == len(set(tables))
    assert all(set(facts(world)) == set(TRAPS) for world in worlds)


def test_a_renamed_column_changes_its_hash_alone() -> None:
    (world,) = make_worlds(count=1, seed=3)
    before, after = schema_hashes(world), schema_hashes(replace(world, state="later"))
    gone, new = f"{world.children}.{world.state}", f"{world.children}.later"
    assert before.keys() - after.keys() == {gone} and after.keys() - before.keys() == {new}
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_nothing_tested_was_ever_asked_before(course: Course) -> None:
    asked = {item.text for item in course.stream}
    assert not asked & {item.text for item in course.test}
    assert not any(item.question.held_out for item in course.stream)
    assert {item.question.held_out for item in course.test} == {True, False}


def test_without_context_the_reader_falls_into_traps_alone(course: Course) -> None:
    score = run_test(course, lambda question, text: ())
    for asked, right in zip(course.test, score.right, strict=True):
        assert right is not bool(asked.question.traps), asked.text


def test_with_the_facts_of_a_question_every_answer_is_right(course: Course) -> None:
    assert all(run_test(course, lambda question, text: told(course, question)).right)


def test_facts_of_the_whole_world_flip_nothing(course: Course) -> None:
    def everything(question: Question, text: str) -> list[Payload]:
        return [fact.payload for fact in facts(course.worlds[question.world]).values()]

    assert all(run_test(course, everything).right)


def test_the_reader_believes_what_is_wrong_as_well(course: Course) -> None:
    score = run_test(course, lambda question, text: told(course, question, wrong=True))
    trapped = [r for a, r in zip(course.test, score.right, strict=True) if a.question.traps]
    assert not any(trapped)


def test_the_reader_sees_names_and_values_only(course: Course) -> None:
    """Worlds that look alike and mean other things get the same answers."""
    world = course.worlds[0]
    codes = dict(zip(world.codes, reversed(world.codes.values()), strict=True))
    twin = replace(world, codes=codes, month=world.month % 12 + 1)
    judge = Judge((twin,))
    try:
        for question in questions(0, world):
            for text in question.wordings:
                mine = answer(text, course.judge.views[0], ())
                assert mine == answer(text, judge.views[0], ())
    finally:
        judge.close()


def test_a_query_that_worked_serves_siblings_and_no_neighbours(course: Course) -> None:
    by_key = {q.key: q for q in questions(0, course.worlds[0])}
    view = course.judge.views[0]
    for question in by_key.values():
        for other in by_key.values():
            template = Template(question=other.wordings[0], sql=other.sql)
            sql = answer(question.wordings[3], view, [template])
            same = question.intent == other.intent
            if (same and question.intent != "code") or question.key == other.key:
                assert course.judge.right(question, sql), (question.wordings[3], sql)
            if not same:
                assert sql == answer(question.wordings[3], view, ()), question.wordings[3]


def test_databases_tell_wrong_queries_from_right_ones(course: Course) -> None:
    for number, world in enumerate(course.worlds):
        for question in questions(number, world):
            assert course.judge.right(question, question.sql)
            mistaken = wrong_sql(question, "", is_right=True)
            assert not course.judge.right(question, mistaken)
            assert len(course.judge.results(number, question.sql)) == DATABASES


@pytest.mark.parametrize("sql", ["DROP TABLE orders", "SELECT nothing FROM nowhere", "", "SELECT"])
def test_what_fails_is_wrong_and_changes_nothing(course: Course, sql: str) -> None:
    question = questions(0, course.worlds[0])[0]
    assert not course.judge.right(question, sql)
    assert course.judge.right(question, question.sql)


def test_the_loop_helps_and_neither_placebo_nor_attacker_matters(course: Course) -> None:
    arms = Arms(course, seed=5, say=lambda text: None)
    found = {**arms.honest(), "attacker": attacker(arms)}
    figures = {name: pooled([outcome]) for name, outcome in found.items()}
    assert figures["honest"]["trap_gain_points"] >= 40
    assert all(arm["untouched_flips"] == 0 for arm in figures.values())
    assert figures["placebo"]["gained"] == 0
    assert found["attacker"].more["planted"] > 0 and found["attacker"].more["released"] == 0


def test_a_rollback_gives_back_the_bytes_of_then(course: Course) -> None:
    more = rollback(Arms(course, seed=5, say=lambda text: None)).more
    assert more["differ_between"] > 0  # else the rest would say nothing
    assert more["differ_after_rollback"] == more["differ_after_return"] == 0
    assert more["answers_differ_after_rollback"] == 0 and more["rollback_s"] <= 1


def test_an_arm_that_is_turned_round_loses_and_flips(course: Course) -> None:
    arms = Arms(course, seed=5, say=lambda text: None)
    oracle = arms.constant()["oracle"]
    wrong = Score(tuple(not right for right in oracle.score.right), oracle.score.answers)
    turned = replace(oracle, score=wrong)
    assert pooled([oracle])["trap_gain_points"] == 100
    figures = pooled([turned])
    assert figures["trap_gain_points"] == 0
    assert figures["untouched_flips"] == figures["untouched_questions"] > 0
    assert cost([oracle], [turned])["lost_to_honest_points"] == 100


def test_a_curve_counts_trap_questions_by_stretches(course: Course) -> None:
    asked = course.stream[: STRETCH + 1]
    none = arms_none(course)
    outcome = Outcome(course.test, none, none, asked, (True,) * STRETCH + (False,))
    first, last = curve([outcome])
    assert first == 1.0 and last in (0.0, None)


def arms_none(course: Course) -> Score:
    return run_test(course, lambda question, text: ())


@pytest.mark.slow
def test_a_drift_is_noticed_where_it_is_told() -> None:
    small = make_course(make_worlds(count=3, seed=5), seed=5, requests=60)
    try:
        arms = Arms(small, seed=5, say=lambda text: None)
        told, untold = drift(arms, told=True).more, drift(arms, told=False).more
    finally:
        small.judge.close()
    assert told["entries_marked"] > 0 and untold["entries_marked"] is None
    assert told["queries_that_fail"] == 0 < untold["queries_that_fail"]
