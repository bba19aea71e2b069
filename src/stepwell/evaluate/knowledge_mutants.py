"""Queries that are nearly right, and databases on which that shows.

Equal results count as the same answer only if the databases tell a query from its near neighbours
(Zhong, Yu, Klein, EMNLP 2020). Of many seeded databases those are kept that between them tell the
most mutants of the true queries from the true ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sqlglot import exp

from stepwell.evaluate.knowledge_questions import questions
from stepwell.evaluate.knowledge_reader import answer
from stepwell.evaluate.knowledge_world import DATABASES, SchemaView, World, look, make_database
from stepwell.knowledge.sql import parse_query

CANDIDATES = 16
"""Databases to choose from."""
Run = Callable[[sqlite3.Connection, str], Any]
_SWAPPED: tuple[tuple[type[exp.Expression], type[exp.Expression]], ...] = (
    (exp.EQ, exp.NEQ), (exp.GTE, exp.GT), (exp.LT, exp.LTE), (exp.Sum, exp.Avg),
    (exp.Avg, exp.Max), (exp.Max, exp.Min), (exp.And, exp.Or), (exp.Div, exp.Mul),
    (exp.Mul, exp.Add),
)  # fmt: skip


def mutants(sql: str, view: SchemaView) -> tuple[str, ...]:
    """One change each: an operator or aggregate swapped, a condition dropped, a number or text
    replaced, a column exchanged for its neighbour in the table."""
    tree = parse_query(sql)
    assert tree is not None
    found = dict.fromkeys(_changes(tree, view))
    found.pop(tree.sql(dialect="sqlite"), None)
    return tuple(found)


def _changes(tree: exp.Expression, view: SchemaView) -> Iterator[str]:
    for place, node in enumerate(tree.walk()):
        for new in _instead(node, view):
            changed = tree.copy()
            target = list(changed.walk())[place]
            if target.parent is not None:
                target.replace(new)
                yield changed.sql(dialect="sqlite")


def _instead(node: exp.Expr, view: SchemaView) -> Iterator[exp.Expr]:
    for old, new in _SWAPPED:
        if type(node) is old:
            yield new(**{key: _copied(value) for key, value in node.args.items()})
    if isinstance(node, exp.And):
        yield node.this.copy()
        yield node.expression.copy()
    elif isinstance(node, exp.Where):
        yield exp.Where(this=exp.true())
    elif isinstance(node, exp.Literal):
        yield _other_literal(node)
    elif isinstance(node, exp.Column):
        yield from _other_columns(node, view)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, exp.Expression) else value


def _other_literal(node: exp.Literal) -> exp.Expression:
    if node.is_string:
        return exp.Literal.string(f"{node.this}x")
    return exp.Literal.number(str(float(node.this) + 1))


def _other_columns(node: exp.Column, view: SchemaView) -> Iterator[exp.Expr]:
    """The columns beside it in the tables that have it."""
    for columns in view.columns.values():
        if node.name in columns:
            place = columns.index(node.name)
            for other in {columns[place - 1], columns[(place + 1) % len(columns)]} - {node.name}:
                yield exp.column(other)


def pairs(world: World, view: SchemaView, *, every_slot: bool) -> list[tuple[str, str]]:
    """(true query, mutant): of the first slot of every question, or of all; among them what the
    reader says who knows nothing."""
    out = []
    seen = set()
    for question in questions(0, world):
        if question.intent in seen and not every_slot:
            continue
        seen.add(question.intent)
        out += [(question.sql, mutant) for mutant in mutants(question.sql, view)]
        if question.traps:
            out.append((question.sql, answer(question.wordings[0], view, ())))
    return out


def kills(world: World, numbers: Sequence[int], *, run: Run, every_slot: bool) -> list[set[int]]:
    """For each database the places of the pairs that it tells apart."""
    out = []
    todo: list[tuple[str, str]] = []
    for number in numbers:
        base = make_database(world, number)
        try:
            todo = todo or pairs(world, look(base), every_slot=every_slot)
            true = {sql: run(base, sql) for sql, _ in todo}
            out.append(
                {i for i, (sql, mutant) in enumerate(todo) if run(base, mutant) != true[sql]}
            )
        finally:
            base.close()
    return out


def choose(killed: Mapping[int, set[int]], count: int) -> tuple[int, ...]:
    """Greedily: what tells most pairs apart that no chosen one does, then what tells most."""
    chosen: list[int] = []
    covered: set[int] = set()
    while len(chosen) < min(count, len(killed)):
        left = [number for number in killed if number not in chosen]
        best = max(left, key=lambda n: (len(killed[n] - covered), len(killed[n]), -n))
        chosen.append(best)
        covered |= killed[best]
    return tuple(chosen)


_CHOSEN: dict[str, tuple[int, ...]] = {}


def chosen_databases(world: World, *, run: Run) -> tuple[int, ...]:
    """Numbers of `DATABASES` databases. Kept, as it takes a second."""
    name = repr(world)
    if name not in _CHOSEN:
        killed = kills(world, range(CANDIDATES), run=run, every_slot=False)
        _CHOSEN[name] = choose(dict(enumerate(killed)), DATABASES)
    return _CHOSEN[name]


def judge_figures(worlds: Sequence[World], *, run: Run) -> dict[str, Any]:
    """Of all slots: mutants, how many the chosen databases tell apart, one alone, and the first
    eight. Those left may be equivalent: nothing proves that they are not."""
    total = found = first = alone = 0
    for world in worlds:
        numbers = chosen_databases(world, run=run)
        killed = kills(world, numbers, run=run, every_slot=True)
        plain = kills(world, range(DATABASES), run=run, every_slot=True)
        base = make_database(world, numbers[0])
        total += len(pairs(world, look(base), every_slot=True))
        base.close()
        found += len(set().union(*killed))
        first += len(set().union(*plain))
        alone += len(killed[0])
    return {"mutants": total, "told_apart": found, "by_the_first_eight": first, "by_one": alone}
