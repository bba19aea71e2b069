"""People beside the loop: they confirm or correct answers, and some of them are wrong."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepwell.evaluate.knowledge_facts import Fact, facts
from stepwell.evaluate.knowledge_questions import Question
from stepwell.evaluate.knowledge_world import World
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Source
from stepwell.knowledge.payload import Gotcha, Metric, Relationship, Template
from stepwell.knowledge.policy import Evidence, Outcome, Scope, Session

USERS, REVIEWERS = 8, 4
RELEASER, CURATOR = "releaser", "curator"


def wrong_fact(fact: Fact, world: World) -> Fact:
    """The same subject, said wrongly."""
    told = fact.payload
    if isinstance(told, Relationship):
        wrong = replace(told, left=f"{world.children}.{world.legacy}", note="")
        return replace(fact, payload=wrong)
    if isinstance(told, Metric):
        return replace(fact, payload=replace(told, expression=told.expression.replace("0)", "1)")))
    assert isinstance(told, Gotcha)
    if fact.trap == "code":
        shifted = re.sub(r"\d+", lambda found: str(int(found[0]) + 1), told.rule)
        return replace(fact, payload=replace(told, rule=shifted))
    swaps = {
        "stale": (f"Use {world.children}.{world.state}", f"Use {world.children}.channel"),
        "cents": ("by 100.", "by 10."),
        "removed": ("= 0", "= 1"),
        "fan_out": (f"Filter {world.children}", f"Filter {world.parents}"),
        "currency": (f"= {world.payments}.ccy", f"= {world.payments}.method"),
        "fiscal": (f"{world.month:02}", f"{world.month + 1:02}"),
        "unit": ("by 1000.", "by 100."),
    }
    return replace(fact, payload=replace(told, rule=told.rule.replace(*swaps[fact.trap])))


def wrong_sql(question: Question, answered: str, *, is_right: bool) -> str:
    """What a careless person lets pass: the wrong answer, or the right one turned round."""
    if answered and not is_right:
        return answered
    return question.sql.replace(" = ", " <> ", 1) if " = " in question.sql else "SELECT 0"


@dataclass(frozen=True, slots=True)
class Habits:
    """How people decide. `wrong`: share of decisions, of users and reviewers alike, that are wrong.
    `reviewed`: whether a second person looks at every candidate. `automatic`: what executes is
    confirmed by the program as well and the newest wins, as in systems without a gate. `people`:
    whether there are any."""

    wrong: float = 0.0
    reviewed: bool = True
    automatic: bool = False
    people: bool = True

    def __str__(self) -> str:
        said = [f"{self.wrong:.0%} wrong", "reviewed" if self.reviewed else "unreviewed"]
        said += ["auto-capture"] * self.automatic + ["nobody confirms"] * (not self.people)
        return ", ".join(said)


@dataclass(slots=True)
class Teacher:
    """Confirms and corrects. `lies`: wrong claims that were entered."""

    base: Knowledge
    worlds: tuple[World, ...]
    draw: random.Random
    habits: Habits
    lies: int = 0

    def teach(
        self, question: Question, text: str, answered: str, *, user: str, is_right: bool, ran: bool
    ) -> list[str]:
        """After one answer. Ids of what is in force for the user now."""
        area = self.worlds[question.world].area
        done = []
        if self.habits.automatic and ran:
            done += self._enter(Fact("", Template(question=text, sql=answered)), area, "program")
        if not self.habits.people:
            return done
        errs = self.draw.random() < self.habits.wrong
        for fact in self._told(question, text, answered, is_right=is_right, errs=errs):
            self.lies += errs
            for name in self._enter(fact, area, user):
                done.append(name)
                if self.habits.reviewed:
                    self._review(name, is_true=not errs)
        return done

    def _told(
        self, question: Question, text: str, answered: str, *, is_right: bool, errs: bool
    ) -> Sequence[Fact]:
        """The query, and where the answer was wrong also why."""
        world = self.worlds[question.world]
        sql = wrong_sql(question, answered, is_right=is_right) if errs else question.sql
        query = Fact("", Template(question=text, sql=sql))
        if is_right:
            return (query,)
        why = [facts(world)[trap] for trap in question.traps]
        return (query, *(wrong_fact(fact, world) if errs else fact for fact in why))

    def _enter(self, fact: Fact, area: str, user: str) -> list[str]:
        session = Session(id=f"{user}-tells", scope=Scope(area=area, user=user))
        captured = self.base.capture(
            fact.payload, by=user, evidence=Evidence.ACCEPTED_EDIT, source=Source.USER, area=area,
            triggers=fact.triggers, depends_on=fact.depends_on, session=session,
        )  # fmt: skip
        if captured.outcome is Outcome.RETRIEVED or captured.findings:
            return []
        self.base.confirm(
            captured.id, by=user, evidence=Evidence.ACCEPTED_EDIT, supersedes=captured.contradicts
        )
        return [captured.id]

    def _review(self, name: str, *, is_true: bool) -> None:
        """By another person, who errs as often as users do. What is released already stays."""
        reviewer = f"reviewer-{self.draw.randrange(REVIEWERS)}"
        says_true = is_true != (self.draw.random() < self.habits.wrong)
        if says_true:
            self.base.confirm(name, by=reviewer)
        elif self.base.entry(name).status.value == "confirmed":
            self.base.reject(name, by=reviewer, reason="wrong")
