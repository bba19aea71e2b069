"""What is learnt and what is asked of held-out drawn worlds, and whether an answer is right.

The test asks other wordings than the stream, and of a third of the values nothing is ever learnt.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.evaluate.knowledge_drawn_ask import (
    LEARNT_WORDINGS,
    Query,
    draw_queries,
    every_query,
    naive_sql,
    traps,
    true_sql,
    wordings,
)
from stepwell.evaluate.knowledge_drawn_world import Split, World, draw_world, make_databases
from stepwell.evaluate.knowledge_score import run_query


@dataclass(frozen=True, slots=True)
class Asked:
    """One text of a query about the world of this number. `trapped`: its true query is not the
    naive one."""

    world: int
    query: Query
    text: str
    sql: str
    naive: str

    @property
    def trapped(self) -> bool:
        return self.sql != self.naive


@dataclass(frozen=True, slots=True)
class Course:
    """`stream`: for learning; `test`: never learnt."""

    worlds: tuple[World, ...]
    stream: tuple[Asked, ...]
    test: tuple[Asked, ...]


class Judge:
    """Answers of worlds by equal rows on each of their databases."""

    def __init__(self, worlds: Sequence[World]) -> None:
        self._bases = [make_databases(world) for world in worlds]

    def close(self) -> None:
        for bases in self._bases:
            for base in bases:
                base.close()

    def right(self, asked: Asked, sql: str) -> bool:
        """Whether it answers as the true query does. An error is wrong."""
        for base in self._bases[asked.world]:
            true = run_query(base, asked.sql, ordered=False)
            if true != run_query(base, sql, ordered=False) or true[0] != "rows":
                return False
        return True


def make_course(
    *, seed: int, worlds: int, requests: int, trapped: int, untouched: int, tables: int = 2
) -> Course:
    """`trapped`, `untouched`: questions of the test, of each world of so many `tables`. The stream
    draws alike from all worlds."""
    names = [f"{seed}-{number}" for number in range(worlds)]
    drawn = tuple(draw_world(name, Split.HELD_OUT, tables=tables) for name in names)
    draw = random.Random(f"drawn course {seed}")
    stream = [_learnt(world, place % worlds, draw) for place, world in _around(drawn, requests)]
    test: list[Asked] = []
    for number, world in enumerate(drawn):
        every = list(every_query(world))
        touched = [query for query in every if traps(query, world)]
        plain = [query for query in every if not traps(query, world)]
        for pool, count in ((touched, trapped), (plain, untouched)):
            texts = [(q, text) for q in pool for text in wordings(q)[LEARNT_WORDINGS:]]
            test += [
                _asked(number, world, query, text)
                for query, text in draw.sample(texts, min(count, len(texts)))
            ]
    return Course(drawn, tuple(stream), tuple(test))


def _around(worlds: Sequence[World], requests: int) -> list[tuple[int, World]]:
    return [(place, worlds[place % len(worlds)]) for place in range(requests)]


def _learnt(world: World, number: int, draw: random.Random) -> Asked:
    """One request of the stream: never of a column's last value."""
    while True:
        query = draw_queries(world, draw, 1)[0]
        values = world.tables[query.parent or query.table].texts[query.column]
        if query.value != values[-1]:
            return _asked(number, world, query, draw.choice(wordings(query)[:LEARNT_WORDINGS]))


def _asked(number: int, world: World, query: Query, text: str) -> Asked:
    return Asked(number, query, text, true_sql(query, world), naive_sql(query))
