"""A schema as hashes: what counts as a change, and what is refused."""

from __future__ import annotations

import pytest

from stepwell.knowledge.ddl import schema_hashes
from stepwell.knowledge.errors import InvalidEntry

DDL = """
CREATE TABLE orders (id INT PRIMARY KEY, status TEXT, cust INT REFERENCES customers(id));
CREATE VIEW open_orders AS SELECT id FROM orders WHERE status = 'open';
CREATE INDEX by_status ON orders (status);
INSERT INTO orders VALUES (1, 'open', 1);
"""


def changed(ddl: str) -> set[str]:
    """Names whose hash is another one or which are on one side only."""
    old, new = schema_hashes(DDL), schema_hashes(ddl)
    return {name for name in {*old, *new} if old.get(name) != new.get(name)}


def test_tables_columns_and_views_have_each_a_hash() -> None:
    names = {"orders", "orders.id", "orders.status", "orders.cust", "open_orders"}
    assert set(schema_hashes(DDL)) == names


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("status TEXT", "Status  text /* stale */", set()),
        ("CREATE INDEX", "-- once\nCREATE INDEX", set()),
        ("id INT PRIMARY KEY, status TEXT", "status TEXT, id INT PRIMARY KEY", set()),
        ("status TEXT", "status INT", {"orders", "orders.status"}),
        ("status TEXT", "status TEXT NOT NULL", {"orders", "orders.status"}),
        ("status TEXT", "state TEXT", {"orders", "orders.status", "orders.state"}),
        ("status TEXT", "status TEXT, total REAL", {"orders", "orders.total"}),
        ("= 'open'", "= 'Open'", {"open_orders"}),
        ("REFERENCES customers(id)", "", {"orders", "orders.cust"}),
    ],
)
def test_what_counts_as_a_change(old: str, new: str, names: set[str]) -> None:
    assert old in DDL and changed(DDL.replace(old, new)) == names


@pytest.mark.parametrize(
    ("ddl", "says"),
    [
        ("CREATE TABLE (", "cannot be read"),
        ("hello world", "no CREATE TABLE"),
        (f"{DDL} ALTER TABLE orders ADD COLUMN x INT", "ALTER is not carried out"),
        (f"{DDL} DROP TABLE orders", "DROP is not carried out"),
        (f"{DDL} CREATE TABLE orders (id INT)", "twice"),
        ("CREATE TABLE a.t (x INT); CREATE TABLE b.t (x INT)", "of one schema"),
        (f"{DDL} CREATE TABLE t (a) WITHOUT ROWID", "WITHOUT ROWID.*cannot be read"),
    ],
)
def test_what_is_no_schema_is_refused(ddl: str, says: str) -> None:
    with pytest.raises(InvalidEntry, match=says):
        schema_hashes(ddl)


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        ("mysql", "RENAME TABLE t TO u"),
        ("mysql", "CALL change_it()"),
        (
            "postgres",
            "ALTER TABLE t ALTER COLUMN a TYPE text USING a::text, ENABLE ROW LEVEL SECURITY",
        ),
        ("postgres", "DO $$ BEGIN ALTER TABLE t RENAME TO u; END $$"),
        ("tsql", "EXEC sp_rename 't.a', 'b'"),
        ("tsql", "IF 1 = 1 DROP TABLE t"),
        ("tsql", "CREATE TABLE dbo.u (a INT)\nGO\nCREATE TABLE dbo.v (a INT)\nGO"),
        ("oracle", "CREATE TABLE u (a INT) ORGANIZATION INDEX"),
        ("oracle", "RENAME t TO u"),
    ],
)
def test_what_the_parser_does_not_read_is_refused_and_not_left_out(
    dialect: str, statement: str
) -> None:
    table = "CREATE TABLE t (a INT)"
    assert set(schema_hashes(table, dialect=dialect)) == {"t", "t.a"}
    with pytest.raises(InvalidEntry, match=r"cannot be read.*Leave it out") as caught:
        schema_hashes(f"{table}; {statement}", dialect=dialect)
    assert statement.split()[0] in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "statement"),
    [
        ("mysql", "SET NAMES utf8; USE shop; INSERT INTO t VALUES (1)"),
        ("postgres", "COMMENT ON TABLE t IS 'x'; CREATE INDEX i ON t (a); GRANT SELECT ON t TO u"),
        ("sqlite", "PRAGMA foreign_keys=ON; BEGIN TRANSACTION; COMMIT"),
    ],
)
def test_what_changes_no_table_is_passed_over(dialect: str, statement: str) -> None:
    table = "CREATE TABLE t (a INT)"
    alone = schema_hashes(table, dialect=dialect)
    assert schema_hashes(f"{statement}; {table}", dialect=dialect) == alone


def test_other_dialects() -> None:
    ddl = 'CREATE TABLE "Orders" (id BIGSERIAL, tags TEXT[])'
    assert set(schema_hashes(ddl, dialect="postgres")) == {"orders", "orders.id", "orders.tags"}
    with pytest.raises(InvalidEntry, match="postgres"):
        schema_hashes(ddl, dialect="")
