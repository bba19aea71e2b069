"""Questions about a drawn world: how they are worded, and the SQL that what is known leads to.

One function writes the true query (all facts known), the naive one (none) and everything between,
so that a question falls into a trap exactly if the two differ.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from stepwell.evaluate.knowledge_drawn_world import Fact, Table, Trap, World

LEARNT_WORDINGS = 2
_MEASURES = {"total": "SUM", "highest": "MAX", "average": "AVG"}
_COMMENT = re.compile(r"/\* \w+ \*/ ")
AGGREGATES = ("count", *_MEASURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Rows of `table` (that are `flag`, if given) whose `column` is `value`; with `parent`, that
    belong to rows of it of which this holds. `aggregate`: one of `AGGREGATES`, of `measure`."""

    table: str
    column: str
    value: str
    aggregate: str = "count"
    measure: str = ""
    flag: str = ""
    parent: str = ""

    @property
    def shape(self) -> Query:
        """The same for siblings, which ask for another value."""
        return replace(self, value="")


def wordings(query: Query) -> tuple[str, ...]:
    """Four; the first `LEARNT_WORDINGS` are asked while learning, the others in tests."""
    t = f"{query.flag} {query.table}" if query.flag else query.table
    c, v, m, p = query.column, query.value, f"{query.aggregate} {query.measure}", query.parent
    if query.parent:
        return (
            f"How many {t} belong to {p} with {c} {v}?",
            f"Count {t} of {p} whose {c} is {v}.",
            f"What is the number of {t} that {p} with {c} {v} have?",
            f"For {p} with {c} {v}, how many {t} are there?",
        )
    if query.measure:
        return (
            f"What is the {m} of {t} with {c} {v}?",
            f"Find the {m} of {t} whose {c} is {v}.",
            f"Over {t} with {c} {v}, what is the {m}?",
            f"Tell me the {m} for {t} that have {c} {v}.",
        )
    return (
        f"How many {t} have {c} {v}?",
        f"Count {t} with {c} {v}.",
        f"What is the number of {t} whose {c} is {v}?",
        f"With {c} {v}, how many {t} are there?",
    )


def traps(query: Query, world: World) -> tuple[Fact, ...]:
    """Facts that the true query needs."""
    filtered = f"{query.parent or query.table}.{query.column}"
    wanted = [(Trap.STALE, filtered), (Trap.CODE, filtered), (Trap.REMOVED, query.table)]
    if query.measure:
        wanted.append((Trap.SCALE, f"{query.table}.{query.measure}"))
    if query.flag:
        wanted.append((Trap.METRIC, f"{query.flag} {query.table}"))
    if query.parent:
        wanted.append((Trap.JOIN, f"{query.table}.{query.parent}"))
    return tuple(fact for trap, about in wanted if (fact := world.fact(trap, about)))


def sql(query: Query, known: Collection[Fact], *, worked: bool = False) -> str:
    """What a reader writes who knows these facts and else takes every name by its word.

    `worked`: with each word of the question as a comment in front of what stands for it. It is the
    same query; a small model finds what stands for a word best right after writing the word.
    """
    by_trap = {fact.trap: fact for fact in known}
    condition = _condition(query, by_trap, worked=worked)
    if query.parent:
        join = by_trap.get(Trap.JOIN)
        link = join.answer if join else f"{query.parent}_id"
        link = f"/* {query.parent} */ {link}" if worked else link
        condition = f"{link} IN (SELECT id FROM {query.parent} WHERE {condition})"
    if query.flag:
        metric = by_trap.get(Trap.METRIC)
        but = f" AND {metric.answer} = 0" if metric else ""
        condition = f"{query.flag} = 1{but} AND {condition}"
    if removed := by_trap.get(Trap.REMOVED):
        condition = f"{condition} AND {removed.answer} = 0"
    what = _what(query, by_trap, worked=worked)
    return f"SELECT {what} FROM {query.table} WHERE {condition}"


def without_comments(worked: str) -> str:
    """The plain query of a worked one."""
    return _COMMENT.sub("", worked)


def _condition(query: Query, by_trap: dict[Trap, Fact], *, worked: bool) -> str:
    code, stale = by_trap.get(Trap.CODE), by_trap.get(Trap.STALE)
    column = stale.answer if stale else query.column
    value = code.answers[query.value] if code else query.value
    if worked:
        return f"/* {query.column} */ {column} = /* {query.value} */ '{value}'"
    return f"{column} = '{value}'"


def _what(query: Query, by_trap: dict[Trap, Fact], *, worked: bool) -> str:
    if not query.measure:
        return "COUNT(*)"
    scale = by_trap.get(Trap.SCALE)
    by = f" / {scale.answer}.0" if scale else ""
    word = f" /* {query.measure} */" if worked else ""
    return f"{_MEASURES[query.aggregate]}({query.measure}){word}{by}"


def true_sql(query: Query, world: World) -> str:
    """All facts known."""
    return sql(query, traps(query, world))


def naive_sql(query: Query) -> str:
    """None known."""
    return sql(query, ())


def every_query(world: World) -> Iterator[Query]:
    """All that can be asked of a world."""
    for table in world.tables.values():
        yield from _of_table(table)
        if table.parent:
            parent = world.tables[table.parent]
            for column, values in parent.texts.items():
                for value in values:
                    yield Query(table=table.name, column=column, value=value, parent=table.parent)


def _of_table(table: Table) -> Iterator[Query]:
    for column, values in table.texts.items():
        for value in values:
            plain = Query(table=table.name, column=column, value=value)
            yield plain
            for flag in table.flags:
                yield replace(plain, flag=flag)
            for measure in table.measures:
                for aggregate in _MEASURES:
                    yield replace(plain, aggregate=aggregate, measure=measure)


def draw_queries(world: World, draw: random.Random, count: int) -> list[Query]:
    """By chance, the same number of each form."""
    forms: dict[str, list[Query]] = {"count": [], "measure": [], "flag": [], "parent": []}
    for query in every_query(world):
        forms[_form(query)].append(query)
    names = [name for name, found in forms.items() if found]
    return [draw.choice(forms[draw.choice(names)]) for _ in range(count)]


def _form(query: Query) -> str:
    if query.parent:
        return "parent"
    if query.flag:
        return "flag"
    return "measure" if query.measure else "count"
