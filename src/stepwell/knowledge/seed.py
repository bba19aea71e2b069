"""Where a new tenant starts: candidates from DDL and from a log of queries. SQL is only read."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import sqlglot
from sqlglot import exp

from stepwell.knowledge.ddl import columns_of
from stepwell.knowledge.dump import Table, read_dump
from stepwell.knowledge.payload import Payload, Relationship, Schema, Template
from stepwell.knowledge.sql import is_query, parse_query


def from_ddl(ddl: str, *, dialect: str = "sqlite") -> tuple[Payload, ...]:
    """A schema of each CREATE TABLE, a relationship of each foreign key, of a dump or of CREATEs
    alone. Raises InvalidEntry."""
    found: list[Payload] = []
    for table in read_dump(ddl, dialect=dialect).values():
        found += _table(table, dialect)
    return tuple(dict.fromkeys(found))


def _table(table: Table, dialect: str) -> Iterator[Payload]:
    if not isinstance(table.tree.this, exp.Schema):
        return
    name, columns = table.tree.this.this.name, columns_of(table)
    if columns:
        yield Schema(table=name, columns=tuple(map(_typed(dialect), columns.values())))
    for column in columns.values():
        for reference in column.find_all(exp.Reference):
            yield from _joined(name, [column.name], reference)
    yield from _foreign_keys(name, table.tree.this)
    for added in table.added:
        with contextlib.suppress(sqlglot.errors.SqlglotError):  # kept as text by the parser
            yield from _foreign_keys(name, sqlglot.parse_one(added.sql, read=dialect))


def _typed(dialect: str) -> Callable[[exp.Expr], str]:
    """A column's name with its type, where it has one."""

    def text(column: exp.Expr) -> str:
        kind = column.args.get("kind")
        return f"{column.name} {kind.sql(dialect) if kind else ''}".strip()

    return text


def _foreign_keys(table: str, tree: exp.Expr) -> Iterator[Relationship]:
    for key in tree.find_all(exp.ForeignKey):
        target = key.args.get("reference")
        if isinstance(target, exp.Reference):
            yield from _joined(table, [part.name for part in key.expressions], target)


def _joined(table: str, columns: list[str], reference: exp.Reference) -> Iterator[Relationship]:
    target = reference.this
    others = [part.name for part in target.expressions] if isinstance(target, exp.Schema) else []
    name = target.this.name if isinstance(target, exp.Schema) else target.name
    if len(columns) == len(others) == 1:
        yield Relationship(left=f"{table}.{columns[0]}", right=f"{name}.{others[0]}")


def from_log(log: Iterable[tuple[str, str]], *, least: int = 2) -> tuple[tuple[Payload, int], ...]:
    """Of (question or empty, SQL): templates and joins that came up at least so often, with how
    often, most first. What is no single SELECT is left out."""
    times: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], Payload] = {}
    for question, sql in log:
        for payload in _used(question, sql) if is_query(sql) else ():
            key = (type(payload).__name__, payload.subject, payload.claim)
            times[key] += 1
            first.setdefault(key, payload)
    often = [(first[key], count) for key, count in times.items() if count >= least]
    return tuple(sorted(often, key=lambda item: (-item[1], item[0].subject, item[0].claim)))


def _used(question: str, sql: str) -> Iterator[Payload]:
    if question.strip():
        yield Template(question=question, sql=sql)
    tree = parse_query(sql)
    assert tree is not None
    tables = {t.alias_or_name.casefold(): t.name for t in tree.find_all(exp.Table)}
    for join in tree.find_all(exp.Join):
        for equal in join.find_all(exp.EQ):
            sides = [s for s in (equal.left, equal.right) if isinstance(s, exp.Column) and s.table]
            names = [f"{tables.get(s.table.casefold(), s.table)}.{s.name}" for s in sides]
            if len(names) == 2 and names[0].partition(".")[0] != names[1].partition(".")[0]:
                left, right = sorted(names)
                yield Relationship(left=left, right=right)
