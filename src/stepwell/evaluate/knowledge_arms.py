"""The arms of the protocol, each against no knowledge base on the same held-out test."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_loop import (
    Course,
    Loop,
    Score,
    make_course,
    open_base,
    run_test,
    tell_schema,
)
from stepwell.evaluate.knowledge_questions import Question
from stepwell.evaluate.knowledge_teach import RELEASER, Teacher, wrong_fact
from stepwell.evaluate.quality_stats import Pairs, mcnemar_exact, tango_interval
from stepwell.knowledge.entry import Source, Status
from stepwell.knowledge.errors import KnowledgeError
from stepwell.knowledge.payload import Payload
from stepwell.knowledge.policy import Evidence

WRONG = (0.05, 0.1, 0.2)
Say = Callable[[str], None]


@contextmanager
def learner(
    course: Course, *, seed: int, wrong: float = 0.0, reviewed: bool = True, automatic: bool = False
) -> Iterator[Loop]:
    """A loop over a new base in a folder that is deleted."""
    with TemporaryDirectory(prefix="knowledge-") as folder:
        base = open_base(Path(folder), confirmers=2 if reviewed else 1)
        try:
            tell_schema(base, course.worlds)
            draw = random.Random(f"people {seed} {wrong} {reviewed}")
            teacher = Teacher(base, course.worlds, draw, wrong, reviewed, automatic)
            yield Loop(base, course, teacher)
        finally:
            base.close()


def compare(course: Course, none: Score, arm: Score) -> dict[str, Any]:
    """Of trap questions: points gained, exact McNemar. Of untouched ones: how many answers turned
    from right to wrong or back."""
    trapped = [bool(asked.question.traps) for asked in course.test]
    before = [r for r, t in zip(none.right, trapped, strict=True) if t]
    after = [r for r, t in zip(arm.right, trapped, strict=True) if t]
    plain = [(a, b) for a, b, t in zip(none.right, arm.right, trapped, strict=True) if not t]
    pairs = Pairs.of(before, after)
    low, high = tango_interval(pairs)
    return {
        "trap_questions": pairs.n,
        "trap_accuracy": round(sum(after) / pairs.n, 4),
        "trap_gain_points": round(100 * pairs.difference, 2),
        "gain_tango_95": [round(100 * low, 2), round(100 * high, 2)],
        "mcnemar_exact_p": float(f"{mcnemar_exact(pairs):.4g}"),
        "gained": pairs.gained,
        "lost": pairs.lost,
        "untouched_questions": len(plain),
        "untouched_flips": sum(a != b for a, b in plain),
        "sibling_accuracy": _share(course, arm, held_out=True),
        "paraphrase_accuracy": _share(course, arm, held_out=False),
    }


def _share(course: Course, arm: Score, *, held_out: bool) -> float:
    found = [
        right
        for asked, right in zip(course.test, arm.right, strict=True)
        if asked.question.traps and asked.question.held_out is held_out
    ]
    return round(sum(found) / len(found), 4)


@dataclass(slots=True)
class Arms:
    """Runs them over one course; `none`: the score without a knowledge base."""

    course: Course
    seed: int
    say: Say
    none: Score = field(init=False)

    def __post_init__(self) -> None:
        self.none = run_test(self.course, lambda question, text: ())

    def all(self) -> dict[str, dict[str, Any]]:
        """Arm -> figures. `lost_to_honest`: points of trap questions."""
        out = {"none": self._against(self.none), "oracle": self._against(self._oracle())}
        out |= self.honest()
        for share in WRONG:
            out[f"wrong_{share:.0%}"] = self._loop(f"{share:.0%} wrong", wrong=share)
            out[f"wrong_{share:.0%}_one_person"] = self._loop(
                f"{share:.0%} wrong, unreviewed", wrong=share, reviewed=False
            )
        out["auto_capture"] = self._loop("auto-capture", automatic=True, reviewed=False)
        out["drift"] = self._drift(told=True)
        out["drift_untold"] = self._drift(told=False)
        honest = out["honest"]["trap_gain_points"]
        for figures in out.values():
            figures["lost_to_honest"] = round(honest - figures["trap_gain_points"], 2)
        return out

    def _against(self, score: Score) -> dict[str, Any]:
        return compare(self.course, self.none, score)

    def _oracle(self) -> Score:
        def told(question: Question, text: str) -> Sequence[Payload]:
            known = facts(self.course.worlds[question.world])
            return [known[trap].payload for trap in question.traps]

        return run_test(self.course, told)

    def _loop(self, name: str, **choices: Any) -> dict[str, Any]:
        self.say(f"arm: {name}")
        with learner(self.course, seed=self.seed, **choices) as loop:
            loop.run(self.course.stream)
            figures = self._against(run_test(self.course, loop.context))
            return figures | {"lies": loop.teacher.lies, "while_learning": _curve(loop.right)}

    def honest(self) -> dict[str, dict[str, Any]]:
        """And what needs its base: placebo and attacker."""
        self.say("arm: honest")
        with learner(self.course, seed=self.seed) as loop:
            loop.run(self.course.stream)
            honest = run_test(self.course, loop.context)
            figures = self._against(honest) | {"while_learning": _curve(loop.right)}
            placebo = self._against(run_test(self.course, self._elsewhere(loop)))
            attack = self._attack(loop, honest)
        return {"honest": figures, "placebo": placebo, "attacker": attack}

    def _elsewhere(self, loop: Loop) -> Callable[[Question, str], list[Payload]]:
        """As many entries, drawn from other worlds."""
        draw = random.Random(f"placebo {self.seed}")
        known = loop.base.entries(Status.RELEASED)

        def context(question: Question, text: str) -> list[Payload]:
            own = self.course.worlds[question.world].area
            others = [entry.payload for entry in known if entry.area != own]
            return draw.sample(others, min(len(others), len(loop.context(question, text))))

        return context

    def _attack(self, loop: Loop, honest: Score) -> dict[str, Any]:
        """One principal without a second enters wrong facts and confirms them himself, in as many
        sessions as there are facts; then somebody releases."""
        base, planted, refused = loop.base, [], 0
        for world in self.course.worlds:
            for fact in facts(world).values():
                bad = wrong_fact(fact, world)
                try:
                    name = base.capture(
                        bad.payload, by="attacker", evidence=Evidence.EXECUTED,
                        source=Source.MODEL, area=world.area, triggers=bad.triggers,
                    ).id  # fmt: skip
                    planted.append(name)
                    for _ in range(3):
                        base.confirm(name, by="attacker")
                except KnowledgeError:
                    refused += 1
        base.release(by=RELEASER)
        after = run_test(self.course, loop.context)
        released = sum(base.entry(name).status is Status.RELEASED for name in planted)
        changed = sum(a != b for a, b in zip(honest.answers, after.answers, strict=True))
        attack = {"planted": len(planted), "refused": refused, "released": released}
        return self._against(after) | attack | {"answers_changed_for_others": changed}

    def _drift(self, *, told: bool) -> dict[str, Any]:
        """Halfway every live state column gets another name."""
        self.say("arm: drift" if told else "arm: drift that nobody tells")
        half = len(self.course.stream) // 2
        worlds = tuple(replace(w, state=f"{w.state}_now") for w in self.course.worlds)
        later = make_course(worlds, seed=self.seed, requests=len(self.course.stream))
        try:
            with learner(self.course, seed=self.seed) as loop:
                loop.run(self.course.stream[:half])
                before = run_test(self.course, loop.context)
                loop.course, loop.teacher.worlds = later, worlds
                dirty = len(tell_schema(loop.base, worlds)) if told else None
                after = run_test(later, loop.context)
                loop.run(later.stream[half:])
                end = run_test(later, loop.context)
                none = run_test(later, lambda question, text: ())
        finally:
            later.judge.close()
        states = {
            "before": _state_accuracy(self.course, before),
            "just_after": _state_accuracy(later, after),
            "end": _state_accuracy(later, end),
        }
        return compare(later, none, end) | {
            "entries_marked": dirty,
            "state_question_accuracy": states,
            "queries_that_fail": _failing(later, after),
            "queries_that_fail_at_the_end": _failing(later, end),
        }


def _state_accuracy(course: Course, score: Score) -> float:
    found = [
        right
        for asked, right in zip(course.test, score.right, strict=True)
        if asked.question.intent == "stale"
    ]
    return round(sum(found) / len(found), 4)


def _failing(course: Course, score: Score) -> int:
    return sum(
        not course.judge.executes(asked.question.world, sql)
        for asked, sql in zip(course.test, score.answers, strict=True)
    )


def _curve(right: Sequence[bool]) -> list[float]:
    """Share of right answers in each quarter."""
    step = max(1, len(right) // 4)
    return [round(sum(right[i : i + step]) / step, 3) for i in range(0, step * 4, step)]
