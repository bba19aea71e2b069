"""What a schema is now, from its DDL: a hash of each table, view and column. SQL is only read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

import sqlglot
from sqlglot import exp

from stepwell.knowledge.errors import InvalidEntry

_CHANGES = (exp.Alter, exp.Drop)
_UNREAD = (exp.Command, exp.Execute)
"""What the parser keeps as text, up to the next semicolon: it may rename or make anything."""


def dialects() -> tuple[str, ...]:
    """Names of the SQL dialects that can be read."""
    return tuple(sorted(name for name in sqlglot.Dialect.classes if name))


def schema_hashes(ddl: str, *, dialect: str = "sqlite") -> dict[str, str]:
    """`table` and `table.column` -> a hash, lower case, of every CREATE TABLE and CREATE VIEW.

    Equal for texts that differ in layout, comments and the order of columns. A table's hash changes
    with any of its columns and constraints, a column's with its own type and constraints, a view's
    with its query. A name of a schema in front of a table's does not count; the same table of two
    schemas is refused. So is every statement that cannot be read. Raises InvalidEntry.
    """
    if dialect not in dialects():
        raise InvalidEntry(
            f"dialect is {dialect!r:.40}.", hint=f"Valid: {', '.join(dialects())}.", param="dialect"
        )
    found: dict[str, str] = {}
    for tree in _statements(ddl, dialect):
        if isinstance(tree, _CHANGES):
            raise _wrong(f"{tree.key.upper()} is not carried out.", "Give the CREATEs of now.")
        _check_read(tree, dialect)
        if not isinstance(tree, exp.Create) or tree.kind not in ("TABLE", "VIEW"):
            continue
        for name, value in _hashes(tree, dialect):
            if name in found:
                raise _wrong(f"{name} is there twice.", "Give each table once, of one schema.")
            found[name] = value
    if not found:
        raise _wrong("there is no CREATE TABLE and no CREATE VIEW in it.", "All of the schema.")
    return found


def _statements(ddl: str, dialect: str) -> Iterable[exp.Expr | None]:
    try:
        return sqlglot.parse(ddl, read=dialect)
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise _wrong(f"it cannot be read: {error}"[:300], "") from None


def _check_read(tree: exp.Expr | None, dialect: str) -> None:
    """Raise InvalidEntry for a statement that may change a table in a way that is not seen."""
    if tree is None or isinstance(tree, exp.Create):
        return
    if tree.find(*_UNREAD, *_CHANGES, exp.Create):
        text = " ".join(_text(tree, dialect).split())
        raise _wrong(
            f"{text!r:.60} cannot be read.",
            "Leave it out, or write the table's CREATE as it is now, in plainer words.",
        )


def _hashes(made: exp.Create, dialect: str) -> Iterator[tuple[str, str]]:
    target = made.this
    parts = target.expressions if isinstance(target, exp.Schema) else []
    table = (target.this if isinstance(target, exp.Schema) else target).name.casefold()
    texts = [_text(part, dialect) for part in parts]
    query = [] if made.expression is None else [_text(made.expression, dialect)]
    yield table, _hash([*sorted(texts), *query])
    for part, text in zip(parts, texts, strict=True):
        if isinstance(part, exp.ColumnDef):
            yield f"{table}.{part.name.casefold()}", _hash([text])


def _text(node: exp.Expr, dialect: str) -> str:
    return node.sql(dialect=dialect, normalize=True, comments=False)


def _hash(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _wrong(what: str, hint: str) -> InvalidEntry:
    return InvalidEntry(f"the DDL: {what}", hint=hint, param="ddl")
