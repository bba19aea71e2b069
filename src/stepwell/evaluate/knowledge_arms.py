"""The arms of the protocol, each against no knowledge base on the same held-out test.

none            no context at all               oracle     the facts of exactly this question
static          written before, never learnt    placebo    as many tokens of other worlds
honest          every confirmation is right     wrong_n%   that share of decisions is wrong
auto_capture    what executes is kept, ungated  attacker, drift, rollback   `knowledge_events`
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_loop import (
    ContextOf,
    Course,
    Loop,
    Score,
    open_base,
    run_test,
    tell_schema,
)
from stepwell.evaluate.knowledge_outcome import Outcome
from stepwell.evaluate.knowledge_questions import Question
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_teach import Habits, Teacher
from stepwell.evaluate.knowledge_world import TRAPS
from stepwell.knowledge.entry import Status
from stepwell.knowledge.payload import Payload, kind_of, texts
from stepwell.knowledge.render import estimated_tokens

WRONG = (0.05, 0.1, 0.2)
Say = Callable[[str], None]


@contextmanager
def learner(course: Course, *, seed: int, habits: Habits) -> Iterator[Loop]:
    """A loop over a new base in a folder that is deleted."""
    with TemporaryDirectory(prefix="knowledge-") as folder:
        base = open_base(Path(folder), confirmers=2 if habits.reviewed else 1)
        try:
            tell_schema(base, course.worlds)
            draw = random.Random(f"people {seed} {habits}")
            yield Loop(base, course, Teacher(base, course.worlds, draw, habits))
        finally:
            base.close()


def told(course: Course, question: Question) -> list[Payload]:
    """The facts of a question's traps."""
    known = facts(course.worlds[question.world])
    return [known[trap].payload for trap in question.traps]


def said(payloads: Sequence[Payload]) -> int:
    """Tokens of what a context says, estimated."""
    return sum(
        estimated_tokens(f"{kind_of(p).value} {' '.join(texts(p).values())}") for p in payloads
    )


@dataclass(slots=True)
class Arms:
    """Runs them over one course. `none`: the score without a knowledge base."""

    course: Course
    seed: int
    say: Say
    none: Score = field(init=False)

    def __post_init__(self) -> None:
        self.none = run_test(self.course, lambda question, text: ())

    def quick(self) -> dict[str, Outcome]:
        """Those that the short run has time for."""
        return self.constant() | self.honest() | {"wrong_10%": self.loop(Habits(wrong=0.1))}

    def all(self) -> dict[str, Outcome]:
        """All that learn in peace."""
        out = self.constant() | self.honest()
        for share in WRONG:
            out[f"wrong_{share:.0%}"] = self.loop(Habits(wrong=share))
            alone = Habits(wrong=share, reviewed=False)
            out[f"wrong_{share:.0%}_one_person"] = self.loop(alone)
        out["auto_capture"] = self.loop(Habits(automatic=True, reviewed=False))
        out["auto_capture_alone"] = self.loop(Habits(automatic=True, reviewed=False, people=False))
        return out

    def constant(self) -> dict[str, Outcome]:
        """Arms that learn nothing."""
        return {
            "none": self._fixed(lambda question, text: ()),
            "oracle": self._fixed(lambda question, text: told(self.course, question)),
            "static": self._fixed(self._written),
        }

    def _written(self, question: Question, text: str) -> list[Payload]:
        """What somebody wrote down before: for each world half of its facts, whether they are
        needed or not."""
        world = self.course.worlds[question.world]
        known = random.Random(f"static {self.seed} {world.area}").sample(TRAPS, len(TRAPS) // 2)
        return [facts(world)[trap].payload for trap in sorted(known)]

    def _fixed(self, context_of: ContextOf) -> Outcome:
        right = []
        for asked in self.course.stream:
            question, judge = asked.question, self.course.judge
            sql = answer(asked.text, judge.views[question.world], context_of(question, asked.text))
            right.append(judge.right(question, sql))
        score = run_test(self.course, context_of)
        return Outcome(self.course.test, self.none, score, self.course.stream, tuple(right))

    def outcome(self, loop: Loop, score: Score, **more: Any) -> Outcome:
        """Of a loop on this course."""
        asked = self.course.stream[: len(loop.right)]
        return Outcome(self.course.test, self.none, score, asked, tuple(loop.right), more)

    def loop(self, habits: Habits) -> Outcome:
        self.say(f"arm: {habits}")
        with learner(self.course, seed=self.seed, habits=habits) as loop:
            loop.run(self.course.stream)
            score = run_test(self.course, loop.context)
            return self.outcome(loop, score, lies=loop.teacher.lies)

    def honest(self) -> dict[str, Outcome]:
        """And the placebo, which needs its base."""
        self.say("arm: honest, placebo")
        with learner(self.course, seed=self.seed, habits=Habits()) as loop:
            loop.run(self.course.stream)
            honest = self.outcome(loop, run_test(self.course, loop.context))
            placebo = self._fixed(self._elsewhere(loop))
        return {"honest": honest, "placebo": placebo}

    def _elsewhere(self, loop: Loop) -> ContextOf:
        """At least as many tokens, drawn from other worlds."""
        draw = random.Random(f"placebo {self.seed}")
        released = loop.base.entries(Status.RELEASED)

        def context(question: Question, text: str) -> list[Payload]:
            own = self.course.worlds[question.world].area
            others = [entry.payload for entry in released if entry.area != own]
            draw.shuffle(others)
            wanted = said(loop.context(question, text))
            chosen: list[Payload] = []
            while others and said(chosen) < wanted:
                chosen.append(others.pop())
            return chosen

        return context
