"""How long a question waits for the knowledge base, and a confirmation for its first use."""

from __future__ import annotations

import random
from time import perf_counter
from typing import Any

from stepwell.evaluate.knowledge_corpus import CORPUS
from stepwell.evaluate.knowledge_filled import filled, others, released
from stepwell.evaluate.knowledge_questions import questions
from stepwell.evaluate.knowledge_world import make_worlds, schema_hashes
from stepwell.evaluate.statistics import percentile
from stepwell.knowledge.payload import Gotcha
from stepwell.knowledge.policy import Evidence, Scope, Session

ENTRIES = 10_000
_WARM_UP, _ASKED, _CONFIRMED = 20, 400, 40


def speed_figures(*, seed: int, entries: int = ENTRIES) -> dict[str, Any]:
    """Milliseconds, in this process, one thread, everything in memory. A confirmation counts from
    before it to after the context of the next request, in which it must be."""
    worlds = make_worlds(count=6, seed=seed * 1000)
    asked = [text for n, w in enumerate(worlds) for q in questions(n, w) for text in q.tested]
    asked += [text for item in CORPUS for text in item.asked]
    draw = random.Random(f"speed {seed}")
    held = [released(item.payload) for item in CORPUS]
    held += others(count=entries - len(held), seed=seed)
    with filled(held) as base:
        hashes: dict[str, str] = {}
        for world in worlds:
            hashes |= schema_hashes(world)
        base.drift(hashes)
        searched = []
        for number in range(_WARM_UP + _ASKED):
            text = draw.choice(asked)
            start = perf_counter()
            base.search(text, Scope(user="asker"))
            if number >= _WARM_UP:
                searched.append(1e3 * (perf_counter() - start))
        usable, missing = [], 0
        for number in range(_CONFIRMED):
            word = f"turnstile{number}"
            rule = Gotcha(about=f"{word} count", rule="Counts twice.")
            name = base.capture(rule, by="ann", evidence=Evidence.USER_CONFIRMED).id
            session = Session(id=f"s{number}", scope=Scope(user="ann"))
            start = perf_counter()
            base.confirm(name, by="ann")
            given = base.context(f"What is the {word} count of May?", session)
            usable.append(1e3 * (perf_counter() - start))
            missing += name not in given.ids
    return {
        "entries": entries,
        "questions": len(searched),
        "retrieve_p50_ms": round(percentile(searched, 50), 3),
        "retrieve_p95_ms": round(percentile(searched, 95), 3),
        "confirmed": _CONFIRMED,
        "confirm_to_usable_p50_ms": round(percentile(usable, 50), 3),
        "confirm_to_usable_p95_ms": round(percentile(usable, 95), 3),
        "confirmed_and_not_used": missing,
    }
