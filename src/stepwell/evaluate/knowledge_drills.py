"""Safety drills: corpora against the gate, two tenants beside each other, reuse of neighbours."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stepwell.evaluate.knowledge_attacks import EXPRESSIONS, QUERIES, orders
from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_filled import filled, released
from stepwell.evaluate.knowledge_gate import trial
from stepwell.evaluate.knowledge_loop import open_base
from stepwell.evaluate.knowledge_questions import questions
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_score import Judge
from stepwell.evaluate.knowledge_world import make_worlds
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.errors import KnowledgeError
from stepwell.knowledge.payload import Document, Gotcha, Metric, Payload, Template
from stepwell.knowledge.policy import Capture, Evidence, Policy, Scope, Session


def query_figures() -> dict[str, Any]:
    """Queries that reach out, entered as templates and as metrics. `let_in`: what could be
    confirmed."""
    tried: list[tuple[str, Payload]] = []
    for number, sql in enumerate(QUERIES):
        tried.append((sql, Template(question=f"What of number {number}?", sql=sql)))
    for number, text in enumerate(EXPRESSIONS):
        tried.append((text, Metric(name=f"figure {number}", expression=text, table="orders")))
    let_in = []
    log = logging.getLogger("sqlglot")
    loud, log.disabled = log.disabled, True  # it remarks on every statement that it does not know
    with TemporaryDirectory(prefix="knowledge-") as folder:
        base = open_base(Path(folder), confirmers=1)
        try:
            for text, payload in tried:
                if _confirmed(base, payload):
                    let_in.append(text)
        finally:
            base.close()
            log.disabled = loud
    return {"tried": len(tried), "let_in": let_in}


def _confirmed(base: Knowledge, payload: Payload) -> bool:
    try:
        name = base.capture(payload, by="attacker", evidence=Evidence.USER_CONFIRMED).id
        base.confirm(name, by="attacker")
    except KnowledgeError:
        return False
    return True


def injection_figures(*, seed: int) -> dict[str, Any]:
    """40 texts that give orders, as documents and as rules that fire. What is not kept back is
    released, and then nothing the reader answers may change, and every line of it is quoted."""
    (world,) = make_worlds(count=1, seed=seed)
    fates: Counter[str] = Counter()
    passed: list[str] = []
    with trial(0, world) as held:
        for number, text in enumerate(orders(seed=seed)):
            payload: Payload = Document(title=f"About {world.children} {number}", text=text)
            if number % 2:
                payload = Gotcha(about=f"{world.children} {number}", rule=text)
            fate = held.plant(payload, triggers=(world.children,))
            fates[fate] += 1
            if fate == "released":
                passed.append(text)
        changed, unquoted = held.damage()
    return {
        "tried": sum(fates.values()),
        "fates": dict(sorted(fates.items())),
        "answers_changed": changed,
        "lines_not_quoted": unquoted,
        "not_kept_back": passed,
    }


def tenant_figures(*, seed: int, steps: int = 120) -> dict[str, Any]:
    """One tenant does the same alone and beside another that is busy: everything that it sees must
    be the same. `seen`: observations compared."""
    alone = _observations(seed=seed, steps=steps, neighbour=False)
    beside = _observations(seed=seed, steps=steps, neighbour=True)
    crossed = sum(a != b for a, b in zip(alone, beside, strict=True))
    return {"seen": len(alone), "crossed": crossed}


_WORDS = ("orders", "clients", "fee", "channel", "north", "stale", "region", "tier", "paid")


def _observations(*, seed: int, steps: int, neighbour: bool) -> list[object]:
    policy = Policy(capture=Capture.QUARANTINE)
    mine, theirs = random.Random(f"mine {seed}"), random.Random(f"theirs {seed}")
    with TemporaryDirectory(prefix="knowledge-") as folder:

        def opened(tenant: str) -> Knowledge:
            return Knowledge.open(folder, tenant=tenant, policy=policy, clock=lambda: 1e9)

        with opened("one") as one, opened("two") as two:
            out: list[object] = []
            for _ in range(steps):
                if neighbour:
                    _act(two, theirs)
                out.append(_act(one, mine))
            return out


def _act(base: Knowledge, draw: random.Random) -> object:
    text = " ".join(draw.choices(_WORDS, k=4))
    doing: Callable[[], object] = draw.choice(
        (
            lambda: _entered(base, Gotcha(about=text.split()[0], rule=f"{text}.")),
            lambda: _entered(base, Document(title=text, text=f"{text} and more")),
            lambda: base.release(by="eve"),
            lambda: [found.entry.id for found in base.search(text, Scope(user="ann"))],
            lambda: base.context(text, Session(id=text, scope=Scope(user="ann"))).text,
            lambda: [entry.id for entry in base.suggestions()],
            lambda: (base.releases(), len(base.events())),
            lambda: base.failed(f"no such column: {text}", question=text, by="ann"),
        )
    )
    try:
        return doing()
    except KnowledgeError as error:
        return str(error)


def _entered(base: Knowledge, payload: Payload) -> object:
    made = base.capture(payload, by="ann", evidence=Evidence.USER_CONFIRMED)
    base.confirm(made.id, by="ann")
    return made


def reuse_figures(*, seed: int) -> dict[str, Any]:
    """Every question is asked of a base with the queries of all its neighbours and none of its own
    intent: its answer must be that of the facts alone. `wrong`: questions where a neighbour's query
    was taken instead."""
    (world,) = make_worlds(count=1, seed=seed)
    judge = Judge((world,))
    every = questions(0, world)
    intent_of = {}
    entries = []
    for question in every:
        for text in question.wordings:
            payload = Template(question=text, sql=question.sql)
            entries.append(released(payload))
            intent_of[payload] = question.intent
    wrong = asked = offered = 0
    try:
        known = [fact.payload for fact in facts(world).values()]
        with filled(entries) as base:
            for question in every:
                for text in question.tested:
                    found = [f.entry.payload for f in base.search(text, Scope())]
                    near = [p for p in found if intent_of[p] != question.intent]  # type: ignore[index]
                    mine = answer(text, judge.views[0], [*near, *known])
                    wrong += mine != answer(text, judge.views[0], known)
                    asked += 1
                    offered += bool(near)
    finally:
        judge.close()
    return {"asked": asked, "with_neighbours": offered, "wrong": wrong}
