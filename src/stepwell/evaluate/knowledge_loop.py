"""The loop of Level A, prequential: answer and score first, then learn; and the held-out test.

Learning draws from the first two wordings of slots that are not held out. The test asks the other
wordings, by a user who confirmed nothing, so only what is released reaches it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.evaluate.knowledge_questions import Question, questions
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_score import Judge
from stepwell.evaluate.knowledge_teach import CURATOR, RELEASER, USERS, Teacher
from stepwell.evaluate.knowledge_world import World, schema_hashes
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.context import Context
from stepwell.knowledge.harness import Case
from stepwell.knowledge.payload import Payload
from stepwell.knowledge.policy import Capture, Policy, Scope, Session

REQUESTS, RELEASE_EVERY = 200, 20
TESTER = "tester"
ContextOf = Callable[[Question, str], Sequence[Payload]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One text of a question."""

    question: Question
    text: str


@dataclass(frozen=True, slots=True)
class Course:
    """Worlds with what is asked of them. `stream`: for learning; `test`: never learnt."""

    worlds: tuple[World, ...]
    judge: Judge
    stream: tuple[Asked, ...]
    test: tuple[Asked, ...]

    @property
    def questions(self) -> dict[str, Question]:
        """Those that can be learnt, by their SQL and area."""
        return {_name(self.worlds, asked.question): asked.question for asked in self.stream}

    @property
    def golden(self) -> tuple[Case, ...]:
        """Of each world one question of each sort, as it is asked in the stream."""
        first: dict[tuple[int, str], Asked] = {}
        for asked in self.stream:
            first.setdefault((asked.question.world, asked.question.intent), asked)
        return tuple(
            Case(
                id=f"{self.worlds[world].area} {intent}",
                question=asked.text,
                expect=_name(self.worlds, asked.question),
                area=self.worlds[world].area,
            )
            for (world, intent), asked in sorted(first.items(), key=lambda item: item[0])
        )


def _name(worlds: tuple[World, ...], question: Question) -> str:
    return f"{worlds[question.world].area} {question.sql}"


def make_course(worlds: tuple[World, ...], *, seed: int, requests: int = REQUESTS) -> Course:
    """`requests` different texts in random order. Close `judge` in the end."""
    every = [q for number, world in enumerate(worlds) for q in questions(number, world)]
    learnable = [Asked(q, text) for q in every if not q.held_out for text in q.learnt]
    draw = random.Random(f"stream {seed}")
    stream = tuple(draw.sample(learnable, requests))
    test = tuple(Asked(q, text) for q in every for text in q.tested)
    return Course(worlds, Judge(worlds), stream, test)


def open_base(folder: Path, *, confirmers: int = 2) -> Knowledge:
    """A new one that captures."""
    policy = Policy(capture=Capture.QUARANTINE, confirmers=confirmers, pending=100_000)
    return Knowledge.open(folder, tenant="bench", policy=policy)


def tell_schema(base: Knowledge, worlds: Sequence[World]) -> tuple[str, ...]:
    """Ids of what is not used any more."""
    hashes: dict[str, str] = {}
    for world in worlds:
        hashes |= schema_hashes(world)
    return base.drift(hashes)


@dataclass(frozen=True, slots=True)
class Score:
    """Of a test, in its order."""

    right: tuple[bool, ...]
    answers: tuple[str, ...]


def run_test(course: Course, context_of: ContextOf) -> Score:
    """Every test text with the context that it is given."""
    right, answers = [], []
    for asked in course.test:
        question = asked.question
        sql = answer(
            asked.text, course.judge.views[question.world], context_of(question, asked.text)
        )
        right.append(course.judge.right(question, sql))
        answers.append(sql)
    return Score(tuple(right), tuple(answers))


@dataclass(slots=True)
class Loop:
    """`right`: of each request, before it was learnt from. `releases`: names, in order."""

    base: Knowledge
    course: Course
    teacher: Teacher
    right: list[bool] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    _known: dict[str, Question] = field(default_factory=dict)
    _sessions: int = 0

    def run(self, stream: Sequence[Asked]) -> None:
        """Serve, score, learn; a release after every `RELEASE_EVERY` and at the end."""
        for place, asked in enumerate(stream, start=1):
            user = f"user-{len(self.right) % USERS}"
            self.step(asked, user=user)
            if place % RELEASE_EVERY == 0 or place == len(stream):
                self.releases.append(self._release())

    def _release(self) -> str:
        """By a curator with golden cases: what makes one fail is rejected, or taken out."""
        base = self.base
        self._known = self.course.questions  # of now: a drift changes the course
        plan = base.plan(by=RELEASER)
        cases = {case.id: case for case in self.course.golden}
        retire: set[str] = set()
        failing = base.judge(plan, cases.values(), self._passes).failing
        found = base.culprits(plan, [cases[name] for name in failing], self._passes)
        for culprit in sorted({name for names in found.values() for name in names}):
            if culprit in plan.added:
                base.reject(culprit, by=CURATOR, reason="a golden case fails with it")
            else:
                retire.add(culprit)
        return base.release(by=RELEASER, retire=retire)

    def _passes(self, case: Case, context: Context) -> bool:
        question, judge = self._known[case.expect], self.course.judge
        given = [entry.payload for entry in context.entries]
        return judge.right(question, answer(case.question, judge.views[question.world], given))

    def step(self, asked: Asked, *, user: str) -> list[str]:
        """One request and what is learnt from it; ids of that."""
        question, judge = asked.question, self.course.judge
        context = self.context(question, asked.text, user=user)
        sql = answer(asked.text, judge.views[question.world], context)
        is_right = judge.right(question, sql)
        self.right.append(is_right)
        return self.teacher.teach(
            question, asked.text, sql, user=user, is_right=is_right,
            ran=judge.executes(question.world, sql),
        )  # fmt: skip

    def context(self, question: Question, text: str, *, user: str = TESTER) -> list[Payload]:
        """What the base gives, in rendered order, in a session of its own."""
        self._sessions += 1
        scope = Scope(area=self.course.worlds[question.world].area, user=user)
        session = Session(id=f"{user}-{self._sessions}", scope=scope)
        return [entry.payload for entry in self.base.context(text, session).entries]
