"""SQL is only ever read here, through sqlglot's tree; nothing is executed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import sqlglot
from sqlglot import exp

_QUERIES = (exp.Select, exp.SetOperation)
# What a tree must not hold anywhere: statements that write, call out or are not understood.
_FORBIDDEN = (
    exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Command,
    exp.Copy, exp.Into, exp.Pragma, exp.Attach, exp.Detach, exp.Set, exp.Use, exp.Lock,
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def parse_query(sql: str) -> exp.Expression | None:
    """The tree of a single query, else None. Callers must not change it."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="sqlite") if tree is not None]
    except (sqlglot.errors.SqlglotError, RecursionError):
        return None
    if len(trees) != 1 or not isinstance(trees[0], _QUERIES):
        return None
    return None if any(trees[0].find_all(*_FORBIDDEN)) else trees[0]


def is_query(sql: str) -> bool:
    """Whether it is one SELECT (or a union of them) that can write nothing."""
    return parse_query(sql) is not None


@functools.lru_cache(maxsize=4096)
def shape(sql: str) -> str:
    """Equal for queries that differ in literals, case and layout. Empty where it is no query."""
    return _hashed(sql, lambda literal: "")


def is_expression(text: str) -> bool:
    """Whether it is one value to select, with no clause of its own after it. A dot after a call is
    no SQL that we know."""
    tree = parse_query(f"SELECT {text}")
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1:
        return False
    clauses = {key for key, value in tree.args.items() if value} - {"expressions", "kind"}
    return not clauses and not any(isinstance(dot.this, exp.Func) for dot in tree.find_all(exp.Dot))


@functools.lru_cache(maxsize=4096)
def fingerprint(sql: str, slots: tuple[str, ...]) -> str:
    """Equal for queries that differ in layout and in the values of slots. `slots`: values that the
    question names, in order; every other literal counts, with its case. Empty: no query."""
    places = {value: str(place) for place, value in reversed(list(enumerate(slots)))}
    return _hashed(sql, lambda literal: places.get(literal.name.casefold()))


def _hashed(sql: str, slot_of: Callable[[exp.Literal], str | None]) -> str:
    """`slot_of`: the name that stands for a literal; None keeps it."""
    tree = parse_query(sql)
    if tree is None:
        return ""
    kept: list[str] = []

    def bare(node: exp.Expression) -> exp.Expression:
        if not isinstance(node, exp.Literal):
            return node
        slot = slot_of(node)
        kept.append(node.name if slot is None else f"?{slot}")
        return exp.Placeholder()

    text = tree.copy().transform(bare).sql(dialect="sqlite", normalize=True, comments=False)
    whole = "\0".join((text.casefold(), *kept))
    return hashlib.sha256(whole.encode()).hexdigest()[:24]


def tables_and_columns(sql: str) -> tuple[str, ...]:
    """`table` and, where the query qualifies it, `table.column`; sorted, lower case."""
    tree = parse_query(sql)
    if tree is None:
        return ()
    defined = {cte.alias.casefold() for cte in tree.find_all(exp.CTE)}
    aliases = {}
    for table in tree.find_all(exp.Table):
        if table.name.casefold() not in defined:
            aliases[table.alias_or_name.casefold()] = table.name.casefold()
    found = set(aliases.values())
    for column in tree.find_all(exp.Column):
        if table_name := aliases.get(column.table.casefold()):
            found.add(f"{table_name}.{column.name.casefold()}")
    if len(aliases) == 1:
        (only,) = aliases.values()
        found |= {f"{only}.{c.name.casefold()}" for c in tree.find_all(exp.Column) if not c.table}
    return tuple(sorted(found))


# Functions that reach outside the database, by name in lower case.
_CALLS = frozenset(
    "load_extension readfile writefile edit fts3_tokenizer pg_read_file pg_read_binary_file "
    "pg_ls_dir lo_import lo_export dblink dblink_exec query_to_xml xp_cmdshell openrowset "
    "opendatasource load_file sys_exec sys_eval read_csv read_csv_auto read_parquet read_text "
    "read_blob pg_sleep pg_terminate_backend set_config setval nextval".split()
)


def forbidden_call(sql: str) -> str:
    """The first function of a query that reads files, writes or calls out; else empty."""
    tree = parse_query(sql)
    for call in tree.find_all(exp.Func) if tree is not None else ():
        name = (call.name if isinstance(call, exp.Anonymous) else call.sql_name()).casefold()
        if name in _CALLS:
            return name
    return ""


def forget() -> None:
    """Drop what is kept of queries that were parsed (erasing)."""
    parse_query.cache_clear()
    shape.cache_clear()
    fingerprint.cache_clear()
