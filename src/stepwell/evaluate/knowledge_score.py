"""Whether SQL answers a question: the rows of the true query, on every database."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stepwell.evaluate.knowledge_mutants import chosen_databases, judge_figures
from stepwell.evaluate.knowledge_questions import Question
from stepwell.evaluate.knowledge_world import World, look, make_database
from stepwell.knowledge.sql import parse_query

_STEPS = 200_000  # of SQLite's machine, for one query on a few hundred rows
_DIGITS = 6


class Judge:
    """Of some worlds. Runs queries on read-only databases in memory and remembers results."""

    def __init__(self, worlds: tuple[World, ...]) -> None:
        self._bases = tuple(
            tuple(make_database(world, n) for n in chosen_databases(world, run=_compared))
            for world in worlds
        )
        self.views = tuple(look(bases[0]) for bases in self._bases)
        self._seen: dict[tuple[int, str], tuple[Any, ...]] = {}

    def close(self) -> None:
        for bases in self._bases:
            for base in bases:
                base.close()

    def results(self, world: int, sql: str) -> tuple[Any, ...]:
        """Of each database: its rows, in order only where the query orders them, or the kind of
        error."""
        key = (world, sql)
        if key not in self._seen:
            ordered = "order by" in sql.casefold()
            self._seen[key] = tuple(
                run_query(base, sql, ordered=ordered) for base in self._bases[world]
            )
        return self._seen[key]

    def executes(self, world: int, sql: str) -> bool:
        """Whether it runs at all, right or wrong."""
        return all(kind == "rows" for kind, _ in self.results(world, sql))

    def right(self, question: Question, sql: str) -> bool:
        """Whether it answers as the true query does. An error is wrong."""
        mine = self.results(question.world, sql)
        true = self.results(question.world, question.sql)
        return mine == true and self.executes(question.world, sql)


def _compared(base: sqlite3.Connection, sql: str) -> Any:
    return run_query(base, sql, ordered=False)


def scoring_figures(worlds: Sequence[World]) -> dict[str, Any]:
    """How many wrong queries the databases of a judge tell from the true ones."""
    return judge_figures(worlds, run=_compared)


def run_query(base: sqlite3.Connection, sql: str, *, ordered: bool) -> tuple[str, Any]:
    """`rows` and them, rounded, or `error` and its kind."""
    if parse_query(sql) is None:
        return "error", "not a query"
    base.set_progress_handler(lambda: 1, _STEPS)
    try:
        rows = [tuple(_rounded(cell) for cell in row) for row in base.execute(sql)]
    except sqlite3.Error as error:
        return "error", type(error).__name__
    finally:
        base.set_progress_handler(None, 0)
    return "rows", rows if ordered else Counter(rows)


def _rounded(cell: Any) -> Any:
    return round(float(cell), _DIGITS) if isinstance(cell, int | float) else cell
