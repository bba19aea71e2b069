"""What a schema is now, from its DDL: a hash of each table, view and column. SQL is only read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp

from stepwell.knowledge.ddl_dump import Added, Dropped, Made, statements, wrong
from stepwell.knowledge.errors import InvalidEntry


def dialects() -> tuple[str, ...]:
    """Names of the SQL dialects that can be read."""
    return tuple(sorted(name for name in sqlglot.Dialect.classes if name))


def schema_hashes(ddl: str, *, dialect: str = "sqlite") -> dict[str, str]:
    """`table` and `table.column` -> a hash, lower case, of every table and view that is there after
    these statements: a dump of a schema, or its CREATEs.

    Equal for texts that differ in layout, comments and the order of columns. A table's hash changes
    with any of its columns and constraints, a column's with its own type and constraints, a view's
    with its query. A name of a schema in front of a table's does not count; the same table of two
    schemas is refused. So is every statement that cannot be read. Raises InvalidEntry.
    """
    if dialect not in dialects():
        raise InvalidEntry(
            f"dialect is {dialect!r:.40}.", hint=f"Valid: {', '.join(dialects())}.", param="dialect"
        )
    found: dict[str, _Table] = {}
    for statement in statements(ddl, dialect=dialect):
        if isinstance(statement, Made):
            name, table = _table(statement.tree, dialect)
            if name in found:
                raise wrong(f"{name} is there twice.", "Give each table once, of one schema.")
            found[name] = table
        elif isinstance(statement, Dropped):
            for name in statement.names:
                found.pop(name, None)
        else:
            _add(found, statement)
    if not found:
        raise wrong("there is no CREATE TABLE and no CREATE VIEW in it.", "All of the schema.")
    return {key: value for name, table in found.items() for key, value in table.hashes(name)}


@dataclass(slots=True)
class _Table:
    """What is said of a table or view, as normalized SQL, by its CREATE and by later statements: in
    all, by a view's query, of each column."""

    texts: list[str]
    query: list[str]
    columns: dict[str, list[str]] = field(default_factory=dict)

    def hashes(self, name: str) -> Iterator[tuple[str, str]]:
        """Of the table itself and of each column."""
        yield name, _hash([*sorted(self.texts), *self.query])
        for column, texts in self.columns.items():
            yield f"{name}.{column}", _hash(sorted(texts))


def _table(made: exp.Create, dialect: str) -> tuple[str, _Table]:
    target = made.this
    parts = target.expressions if isinstance(target, exp.Schema) else []
    name = (target.this if isinstance(target, exp.Schema) else target).name.casefold()
    texts = [_text(part, dialect) for part in parts]
    query = [] if made.expression is None else [_text(made.expression, dialect)]
    table = _Table(texts, query)
    for part, text in zip(parts, texts, strict=True):
        if isinstance(part, exp.ColumnDef):
            column = part.name.casefold()
            if column in table.columns:
                raise wrong(f"{name}.{column} is there twice.", "Give each column once.")
            table.columns[column] = [text]
    return name, table


def _add(found: dict[str, _Table], added: Added) -> None:
    """Nothing is kept of tables that are not there: sequences have such lines, too."""
    table = found.get(added.table)
    if table is None:
        return
    table.texts.append(added.text)
    if added.column is not None:
        table.columns.setdefault(added.column, []).append(added.text)


def _text(node: exp.Expr, dialect: str) -> str:
    return node.sql(dialect=dialect, normalize=True, comments=False)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
