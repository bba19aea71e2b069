"""What payloads say, and which SQL is taken."""

from __future__ import annotations

import pytest

from stepwell.knowledge.errors import InvalidEntry
from stepwell.knowledge.payload import (
    PAYLOADS,
    Kind,
    Metric,
    Relationship,
    Schema,
    Template,
    make_payload,
)
from stepwell.knowledge.sql import is_query, shape, tables_and_columns

NOT_QUERIES = [
    "DROP TABLE orders",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE orders",
    "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x",
    "INSERT INTO orders SELECT * FROM orders",
    "SELECT * INTO copied FROM orders",
    "COPY orders FROM PROGRAM 'id'",
    "PRAGMA writable_schema = 1",
    "ATTACH DATABASE 'x' AS y",
    "not sql at all (",
    "",
]


@pytest.mark.parametrize("sql", NOT_QUERIES)
def test_only_one_select_is_a_query(sql: str) -> None:
    assert not is_query(sql)


def test_unions_and_ctes_are_queries() -> None:
    assert is_query("SELECT a FROM t UNION SELECT b FROM u")
    assert is_query("WITH x AS (SELECT 1 AS a) SELECT a FROM x")


def test_a_shape_ignores_literals_case_and_layout_only() -> None:
    base = shape("SELECT count(*) FROM orders WHERE state = 'open' LIMIT 3")
    assert base == shape("select COUNT(*)\nfrom orders where state='paid' limit 10")
    assert base != shape("SELECT count(*) FROM orders WHERE status = 'open' LIMIT 3")


def test_a_claim_ignores_only_the_values_that_the_question_names() -> None:
    def claim(question: str, sql: str) -> str:
        return Template(question=question, sql=sql).claim

    base = claim("orders over 1,000 of 'Ulm'", "SELECT a FROM t WHERE b > 1000 AND c = 'ulm'")
    assert base == claim('orders over 50 of "Bonn"', "select A from t where b > 50 and c = 'Bonn'")
    assert base != claim(
        "orders over 50 of 'Bonn'", "SELECT a FROM t WHERE b > 5000 AND c = 'Bonn'"
    )
    assert base != claim("orders over 50 of 'Bonn'", "SELECT a FROM t WHERE c > 50 AND b = 'Bonn'")
    paid = "SELECT a FROM t WHERE state = 'paid'"
    assert claim("paid orders", paid) != claim("paid orders", paid.replace("paid", "open"))


def test_dependencies_of_a_query() -> None:
    sql = "SELECT o.state FROM orders o JOIN customers c ON o.cust = c.id"
    assert tables_and_columns(sql) == (
        "customers", "customers.id", "orders", "orders.cust", "orders.state",
    )  # fmt: skip
    assert tables_and_columns("WITH x AS (SELECT a FROM t) SELECT a FROM x") == ("t", "t.a")


def test_a_payload_is_checked() -> None:
    with pytest.raises(InvalidEntry, match="unknown field"):
        make_payload(Kind.METRIC, {"nme": "a"})
    with pytest.raises(InvalidEntry, match="empty"):
        make_payload(Kind.METRIC, {"name": " ", "expression": "a", "table": "t"})
    with pytest.raises(InvalidEntry, match="not a query"):
        make_payload(Kind.TEMPLATE, {"question": "q", "sql": "DELETE FROM t"})
    with pytest.raises(InvalidEntry, match="missing"):
        make_payload(Kind.TEMPLATE, {"question": "q"})
    made = make_payload(Kind.SCHEMA, {"table": "t", "columns": ["a int"]})
    assert made == Schema(table="t", columns=("a int",))


def test_every_kind_has_a_payload() -> None:
    assert set(PAYLOADS) == set(Kind)


def test_same_subject_with_another_claim_is_a_contradiction() -> None:
    one = Metric(name="Active users", expression="count(*)", table="users")
    two = Metric(name="active  users", expression="count(id)", table="users")
    assert one.subject == two.subject and one.claim != two.claim
    a = Relationship(left="orders.cust", right="customers.id")
    b = Relationship(left="customers.id", right="orders.cust")
    assert (a.subject, a.claim) == (b.subject, b.claim)
    q2024 = Template(question="Orders in 2024?", sql="SELECT a FROM t WHERE y = 2024")
    q2025 = Template(question="orders in 2025", sql="SELECT a FROM t WHERE y = 2025")
    assert (q2024.subject, q2024.claim) == (q2025.subject, q2025.claim)
