"""What a schema is now, from its DDL: a hash of each table, view and column. SQL is only read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import sqlglot
from sqlglot import exp

from stepwell.knowledge.dump import Table, read_dump
from stepwell.knowledge.dump_text import wrong
from stepwell.knowledge.errors import InvalidEntry


def dialects() -> tuple[str, ...]:
    """Names of the SQL dialects that can be read."""
    return tuple(sorted(name for name in sqlglot.Dialect.classes if name))


def schema_hashes(ddl: str, *, dialect: str = "sqlite") -> dict[str, str]:
    """`table` and `table.column` -> a hash, lower case, of every table and view that is there after
    the statements of a schema's dump, or its CREATEs alone.

    Equal for texts that differ in layout, comments and the order of columns. A table's hash changes
    with any of its columns and constraints, a column's with its own type and constraints, a view's
    with its query and the order of its columns. A name of a schema in front of a table's does not
    count; the same table of two schemas is refused. So is every statement of which it is not known
    what it changes. Raises InvalidEntry.
    """
    if dialect not in dialects():
        raise InvalidEntry(
            f"dialect is {dialect!r:.40}.", hint=f"Valid: {', '.join(dialects())}.", param="dialect"
        )
    tables = read_dump(ddl, dialect=dialect)
    if not tables:
        raise wrong("there is no CREATE TABLE and no CREATE VIEW in it.", "All of the schema.")
    return {
        key: value
        for name, table in tables.items()
        for key, value in _hashes(name, table, dialect).items()
    }


def _hashes(name: str, table: Table, dialect: str) -> dict[str, str]:
    """Of the table itself and of each column."""
    made, columns = table.tree, columns_of(table)
    parts = _parts(made)
    texts = [_text(part, dialect) for part in parts]
    if made.kind == "TABLE":
        texts.sort()
    texts += sorted(added.text for added in table.added)
    texts += [_text(made, dialect)] * (not parts and made.expression is None)
    texts += [] if made.expression is None else [_text(made.expression, dialect)]
    texts += [_text(node, dialect) for node in made.find_all(exp.InheritsProperty)]
    found = {name: _hash(texts)}
    for column, node in columns.items():
        later = sorted(added.text for added in table.added if added.column == column)
        found[f"{name}.{column}"] = _hash([_text(node, dialect), *later])
    return found


def columns_of(table: Table) -> dict[str, exp.Expr]:
    """Of a table, by name in lower case; a view's are not listed. Raises InvalidEntry."""
    if table.tree.kind != "TABLE":
        return {}
    parts = _parts(table.tree)
    columns = [part for part in parts if isinstance(part, exp.ColumnDef | exp.Identifier)]
    found: dict[str, exp.Expr] = {column.name.casefold(): column for column in columns}
    if len(found) < len(columns):
        name = table.tree.this.this.name
        raise wrong(f"{name} has a column twice.", "Give each column once.")
    return found


def _parts(made: exp.Create) -> list[exp.Expr]:
    return made.this.expressions if isinstance(made.this, exp.Schema) else []


def _text(node: exp.Expr, dialect: str) -> str:
    return node.sql(dialect=dialect, normalize=True, comments=False)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
