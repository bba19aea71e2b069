"""What becomes of edits: entered, confirmed by two, released against regression cases.

Cases are the first wording of slots that are not held out; what an edit would do is measured on
wordings that are no cases and on all slots, by releasing it without cases.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.evaluate.knowledge_edits import Edit, bad_edits, harmless_edits, start
from stepwell.evaluate.knowledge_facts import Fact
from stepwell.evaluate.knowledge_loop import TESTER, open_base
from stepwell.evaluate.knowledge_questions import Question, questions
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_score import Judge
from stepwell.evaluate.knowledge_teach import RELEASER
from stepwell.evaluate.knowledge_world import World, make_worlds, schema_hashes
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.context import Context
from stepwell.knowledge.entry import Source, Status
from stepwell.knowledge.errors import KnowledgeError, ReleaseBlocked
from stepwell.knowledge.harness import Case
from stepwell.knowledge.payload import Payload
from stepwell.knowledge.policy import Evidence, Scope, Session
from stepwell.knowledge.render import PREAMBLE

_PEOPLE = ("author", "reviewer")


@dataclass(frozen=True, slots=True)
class Fate:
    """`by`: what blocked the edit, empty: nothing. `harm`: test answers that it turns wrong where
    it is let in, None: that was not tried."""

    edit: Edit
    by: str
    why: str
    harm: int | None


class Trial:
    """One world, its base and its cases. Every edit starts from the same release."""

    def __init__(self, base: Knowledge, number: int, world: World, judge: Judge) -> None:
        self._base, self._world, self._judge = base, world, judge
        self._questions = {_name(q): q for q in questions(number, world)}
        self._hashes = schema_hashes(world)
        self._ids: dict[Payload, str] = {}
        self._texts: list[str] = []
        base.drift(self._hashes)
        for fact in start(number, world):
            self._ids[fact.payload] = self._enter(fact)
        self._first = base.release(by=RELEASER)
        self._right = self._test()
        self.cases = [
            Case(id=name, question=question.wordings[0], area=world.area)
            for name, question in self._questions.items()
            if not question.held_out
        ]

    def _enter(self, fact: Fact, *, replaces: Sequence[str] = ()) -> str:
        name = self._base.capture(
            fact.payload, by=_PEOPLE[0], evidence=Evidence.ACCEPTED_EDIT, source=Source.USER,
            area=self._world.area, triggers=fact.triggers, depends_on=fact.depends_on,
        ).id  # fmt: skip
        for person in _PEOPLE:
            self._base.confirm(name, by=person, supersedes=tuple(replaces))
        return name

    def reader(self, case: Case, context: Context) -> bool:
        """Whether the reader answers the case rightly with this context."""
        question = self._questions[case.id]
        return self._is_right(question, case.question, [e.payload for e in context.entries])

    def _is_right(self, question: Question, text: str, payloads: Sequence[Payload]) -> bool:
        sql = answer(text, self._judge.views[question.world], payloads)
        return self._judge.right(question, sql)

    def _test(self) -> list[bool]:
        out = []
        self._texts = []
        for place, (question, text) in enumerate(
            (q, text) for q in self._questions.values() for text in q.tested
        ):
            session = Session(id=f"{self._base.current}-{place}",
                              scope=Scope(area=self._world.area, user=TESTER))  # fmt: skip
            given = self._base.context(text, session)
            self._texts.append(given.text)
            out.append(self._is_right(question, text, [e.payload for e in given.entries]))
        return out

    def fate(self, edit: Edit, *, harm: bool = True) -> Fate:
        """Try it, and put everything back."""
        name = ""
        try:
            if edit.payload is not None:
                replaced = [self._ids[payload] for payload in edit.replaces]
                fact = Fact("", edit.payload, edit.triggers, edit.depends_on)
                name = self._enter(fact, replaces=replaced)
            by, why = self._release(edit, name)
            done = self._harm(edit) if harm and by in ("", "cases") else None
            return Fate(edit, by, why, done)
        except KnowledgeError as error:
            return Fate(edit, "lint", str(error), None)
        finally:
            self._restore()

    def plant(self, payload: Payload, *, triggers: tuple[str, ...]) -> str:
        """Enter and release it without cases: `refused`, `kept back` or `released`."""
        try:
            captured = self._base.capture(
                payload, by=_PEOPLE[0], evidence=Evidence.ACCEPTED_EDIT, source=Source.USER,
                area=self._world.area, triggers=triggers,
            )  # fmt: skip
        except KnowledgeError:
            return "refused"
        try:
            for person in _PEOPLE:
                self._base.confirm(captured.id, by=person)
        except KnowledgeError:
            return "kept back"
        self._base.release(by=RELEASER)
        is_released = self._base.entry(captured.id).status is Status.RELEASED
        return "released" if is_released else "kept back"

    def damage(self) -> tuple[int, int]:
        """Test answers that are others than at the start, and lines in contexts that are not
        quoted."""
        after = self._test()
        lines = sum(unquoted(text) for text in self._texts)
        return sum(a != b for a, b in zip(self._right, after, strict=True)), lines

    def _release(self, edit: Edit, name: str) -> tuple[str, str]:
        if edit.changed:
            changed = {column: "changed" for column in edit.changed}
            self._base.drift(self._hashes | changed)
        retires = [self._ids[payload] for payload in edit.retires]
        plan = self._base.plan(by=RELEASER, retire=retires)
        if why := plan.held.get(name, ""):
            return ("drift" if "schema" in why else why.split(" ")[0]), why
        try:
            self._base.release(by=RELEASER, retire=retires, cases=self.cases, reader=self.reader)
        except ReleaseBlocked as error:
            return "cases", str(error)
        return "", ""

    def _harm(self, edit: Edit) -> int:
        if self._base.current == self._first:
            self._base.release(by=RELEASER, retire=[self._ids[p] for p in edit.retires])
        after = self._test()
        return sum(a and not b for a, b in zip(self._right, after, strict=True))

    def _restore(self) -> None:
        self._base.drift(self._hashes)
        if self._base.current != self._first:
            self._base.rollback(self._first, by=RELEASER)
        for status in (Status.CANDIDATE, Status.CONFIRMED):
            for entry in self._base.entries(status):
                self._base.reject(entry.id, by=_PEOPLE[1], reason="the trial is over")


def unquoted(text: str) -> int:
    """Lines of a rendered context that are neither its preamble, an id, nor quoted."""
    lines = text.removeprefix(PREAMBLE).split("\n")
    return sum(bool(line) and line[0] not in "[|" for line in lines)


def _name(question: Question) -> str:
    return f"{question.intent}-{question.slot}"


@contextmanager
def trial(number: int, world: World) -> Iterator[Trial]:
    """In a folder that is deleted."""
    judge = Judge((world,))
    with TemporaryDirectory(prefix="knowledge-") as folder:
        base = open_base(Path(folder), confirmers=2)
        try:
            yield Trial(base, 0, world, judge)
        finally:
            base.close()
            judge.close()


_Edits = Callable[[int, World], Iterator[Edit]]


def gate_figures(*, seed: int, worlds: int = 6, harm: bool = True) -> dict[str, Any]:
    """Ten bad and ten harmless edits for each world. `harm`: whether it is tried what those would
    do that only cases block, or nothing."""
    bad, harmless = [], []
    for number, world in enumerate(make_worlds(count=worlds, seed=seed)):
        with trial(number, world) as held:
            bad += [held.fate(edit, harm=harm) for edit in bad_edits(number, world)]
            harmless += [held.fate(edit, harm=harm) for edit in harmless_edits(number, world)]
    return {"seed": seed, "bad": summary(bad, wanted=True),
            "harmless": summary(harmless, wanted=False)}  # fmt: skip


def summary(fates: Sequence[Fate], *, wanted: bool) -> dict[str, Any]:
    """Shares and what blocked them, by kind of edit. `wanted`: whether they are to be blocked."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for fate in fates:
        kinds[fate.edit.kind][fate.by or "nothing"] += 1
    tried = [fate.harm for fate in fates if fate.harm is not None]
    return {
        "edits": len(fates),
        "blocked": sum(bool(fate.by) for fate in fates),
        "blocked_share": round(sum(bool(fate.by) for fate in fates) / len(fates), 4),
        "blocked_by": dict(sorted(Counter(f.by or "nothing" for f in fates).items())),
        "of_each_kind": {kind: dict(sorted(count.items())) for kind, count in kinds.items()},
        "answers_turned_wrong_if_let_in": sum(tried),
        "edits_without_harm_if_let_in": sum(harm == 0 for harm in tried),
        "not_as_wanted": [
            {"kind": f.edit.kind, "by": f.by, "why": f.why, "harm": f.harm}
            for f in fates if bool(f.by) is not wanted
        ],
    }  # fmt: skip
