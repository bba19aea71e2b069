"""Arms in which something happens: an attacker, a schema that changes, a stretch that is undone."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

from stepwell.evaluate.knowledge_arms import Arms, learner
from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_loop import (
    TESTER,
    Course,
    Loop,
    Score,
    make_course,
    run_test,
    tell_schema,
)
from stepwell.evaluate.knowledge_outcome import Outcome
from stepwell.evaluate.knowledge_teach import RELEASER, Habits, wrong_fact
from stepwell.evaluate.knowledge_world import World
from stepwell.knowledge.entry import Source, Status
from stepwell.knowledge.errors import KnowledgeError
from stepwell.knowledge.policy import Evidence, Scope, Session

SESSIONS = 3
"""Of the attacker: each tells the same lies."""
_PROBES = 60


def attacker(arms: Arms) -> Outcome:
    """Beside an honest loop, one principal enters wrong facts from `SESSIONS` sessions and confirms
    them himself; then somebody releases. `effects`: answers of others that changed."""
    arms.say("arm: attacker")
    with learner(arms.course, seed=arms.seed, habits=Habits()) as loop:
        loop.run(arms.course.stream)
        before, seen = run_test(arms.course, loop.context), probe(loop, "before")
        planted, refused = _plant(loop)
        loop.base.release(by=RELEASER)
        after, now = run_test(arms.course, loop.context), probe(loop, "after")
        released = sum(loop.base.entry(name).status is Status.RELEASED for name in planted)
        return arms.outcome(
            loop,
            after,
            planted=len(planted),
            refused=refused,
            released=released,
            effects=sum(a != b for a, b in zip(before.answers, after.answers, strict=True)),
            contexts_changed=sum(a != b for a, b in zip(seen, now, strict=True)),
        )


def _plant(loop: Loop) -> tuple[set[str], int]:
    planted: set[str] = set()
    refused = 0
    for number in range(SESSIONS):
        for world in loop.course.worlds:
            session = Session(id=f"attack-{number}", scope=Scope(area=world.area, user="attacker"))
            for fact in facts(world).values():
                bad = wrong_fact(fact, world)
                try:
                    name = loop.base.capture(
                        bad.payload, by="attacker", evidence=Evidence.EXECUTED,
                        source=Source.MODEL, area=world.area, triggers=bad.triggers,
                        session=session,
                    ).id  # fmt: skip
                    planted.add(name)
                    loop.base.confirm(name, by="attacker")
                except KnowledgeError:
                    refused += 1
    return planted, refused


def probe(loop: Loop, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Rendered text and selected ids of some test questions, each in a new session."""
    out = []
    step = max(1, len(loop.course.test) // _PROBES)
    for number, asked in enumerate(loop.course.test[::step]):
        area = loop.course.worlds[asked.question.world].area
        session = Session(id=f"{name}-{number}", scope=Scope(area=area, user=TESTER))
        context = loop.base.context(asked.text, session)
        out.append((context.text, context.fresh))
    return out


def rollback(arms: Arms) -> Outcome:
    """Honest until a third, then people of whom half of all decisions are wrong, unreviewed; at two
    thirds the release of the first third is made current again, and must answer to the byte as it
    did then. Afterwards the loop goes on, honest. The test is that of the end."""
    arms.say("arm: rollback")
    stream = arms.course.stream
    first, last = len(stream) // 3, 2 * len(stream) // 3
    with learner(arms.course, seed=arms.seed, habits=Habits(reviewed=False)) as loop:
        loop.run(stream[:first])
        good, then = loop.releases[-1], probe(loop, "then")
        at_first = run_test(arms.course, loop.context)
        loop.teacher.habits = Habits(wrong=0.5, reviewed=False)
        loop.run(stream[first:last])
        bad, spoilt = probe(loop, "spoilt"), run_test(arms.course, loop.context)
        newest = loop.releases[-1]
        start = perf_counter()
        loop.base.rollback(good, by=RELEASER)
        seconds = perf_counter() - start
        back, undone = probe(loop, "back"), run_test(arms.course, loop.context)
        loop.base.rollback(newest, by=RELEASER)
        again = probe(loop, "again")
        loop.base.rollback(good, by=RELEASER)
        loop.teacher.habits = Habits(reviewed=False)
        loop.run(stream[last:])
        end = run_test(arms.course, loop.context)
        return arms.outcome(
            loop,
            end,
            rollback_s=round(seconds, 4),
            probes=len(then),
            differ_between=_differ(then, bad),
            differ_after_rollback=_differ(then, back),
            differ_after_return=_differ(bad, again),
            answers_differ_after_rollback=_differ(at_first.answers, undone.answers),
            trap_accuracy={
                "first_third": trap_accuracy(arms.course, at_first),
                "spoilt": trap_accuracy(arms.course, spoilt),
                "rolled_back": trap_accuracy(arms.course, undone),
                "end": trap_accuracy(arms.course, end),
            },
        )


def _differ(one: Any, other: Any) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def drift(arms: Arms, *, told: bool) -> Outcome:
    """Halfway every live state column gets another name, and what depended on it is wrong. `told`:
    whether the base gets the hashes of the new schema."""
    arms.say("arm: drift" if told else "arm: drift that nobody tells")
    stream = arms.course.stream
    half = len(stream) // 2
    worlds = tuple(_renamed(world) for world in arms.course.worlds)
    later = make_course(worlds, seed=arms.seed, requests=len(stream))
    try:
        with learner(arms.course, seed=arms.seed, habits=Habits()) as loop:
            loop.run(stream[:half])
            before = run_test(arms.course, loop.context)
            loop.course, loop.teacher.worlds = later, worlds
            dirty = len(tell_schema(loop.base, worlds)) if told else None
            after = run_test(later, loop.context)
            loop.run(later.stream[half:])
            end = run_test(later, loop.context)
            none = run_test(later, lambda question, text: ())
            more = {
                "entries_marked": dirty,
                "state_question_accuracy": {
                    "before": _state_accuracy(arms.course, before),
                    "just_after": _state_accuracy(later, after),
                    "end": _state_accuracy(later, end),
                },
                "queries_that_fail": _failing(later, after),
                "queries_that_fail_at_the_end": _failing(later, end),
            }
            asked = (*stream[:half], *later.stream[half:])
            return Outcome(later.test, none, end, asked, tuple(loop.right), more)
    finally:
        later.judge.close()


def _renamed(world: World) -> World:
    return replace(world, state=f"{world.state}_now")


def trap_accuracy(course: Course, score: Score) -> float:
    """Share of right answers to questions with a trap."""
    rows = zip(course.test, score.right, strict=True)
    found = [right for asked, right in rows if asked.question.traps]
    return round(sum(found) / len(found), 4)


def _state_accuracy(course: Course, score: Score) -> float:
    rows = zip(course.test, score.right, strict=True)
    found = [right for asked, right in rows if asked.question.intent == "stale"]
    return round(sum(found) / len(found), 4)


def _failing(course: Course, score: Score) -> int:
    return sum(
        not course.judge.executes(asked.question.world, sql)
        for asked, sql in zip(course.test, score.answers, strict=True)
    )
