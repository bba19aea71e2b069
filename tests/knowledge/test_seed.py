"""Candidates from DDL and logs; entries that come up for everything; which entries help."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.knowledge.entry import Status
from stepwell.knowledge.errors import GateClosed, InvalidEntry, KnowledgeError
from stepwell.knowledge.payload import Document, Gotcha, Metric, Relationship, Schema, Template
from stepwell.knowledge.policy import Evidence, Scope, Session
from stepwell.knowledge.seed import from_ddl, from_log
from stepwell.knowledge.session import Sessions
from stepwell.knowledge.useful import usefulness
from tests.knowledge.shop import ORDERS, STALE, learn, shop

DDL = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE orders (id INTEGER, cust INTEGER REFERENCES customers(id), shop INTEGER,
  FOREIGN KEY (shop) REFERENCES shops(number));
CREATE INDEX by_cust ON orders (cust);
"""


def test_tables_and_keys_of_ddl() -> None:
    assert set(from_ddl(DDL)) == {
        Schema(table="customers", columns=("id INTEGER", "name TEXT")),
        Schema(table="orders", columns=("id INTEGER", "cust INTEGER", "shop INTEGER")),
        Relationship(left="orders.cust", right="customers.id"),
        Relationship(left="orders.shop", right="shops.number"),
    }
    with pytest.raises(InvalidEntry):
        from_ddl("CREATE TABLE ((")


def test_what_a_log_says_often(tmp_path: Path) -> None:
    join = "SELECT c.name FROM orders o JOIN customers c ON o.cust = c.id WHERE o.id = {}"
    log = [("Who bought order 3?", join.format(3)), ("who bought order 44", join.format(44))]
    log += [("", join.format(5)), ("once", "SELECT 1"), ("bad", "DROP TABLE orders")]
    found = from_log(log)
    assert found == (
        (Relationship(left="customers.id", right="orders.cust"), 3),
        (Template(question="Who bought order 3?", sql=join.format(3)), 2),
    )
    secret = Document(title="login", text="password: hunter22")
    with shop(tmp_path) as base:
        made = base.seed([*(payload for payload, _ in found), secret], by="setup", area="north")
        assert isinstance(made[-1], KnowledgeError)
        waiting = base.entries(Status.CANDIDATE)
        assert {entry.payload for entry in waiting} == {payload for payload, _ in found}
        assert base.search("who bought order 3", Scope(area="north", user="setup")) == ()


def test_what_would_come_up_for_everything_is_found(tmp_path: Path) -> None:
    metrics = [
        Metric(name=f"margin of shop town{n}", expression=f"sum({n})", table="t") for n in range(24)
    ]
    with shop(tmp_path) as base:
        learn(base, *metrics)
        base.release(by="eve")
        broad = base.capture(
            STALE, by="mallory", evidence=Evidence.EXECUTED, triggers=["margin", "shop"]
        )
        assert broad.findings == ("broad_trigger",)
        stuffed = Document(
            title="all", text="margin of shop " + " ".join(f"town{n}" for n in range(24))
        )
        made = base.capture(stuffed, by="mallory", evidence=Evidence.EXECUTED)
        assert made.findings == ("hub",)
        with pytest.raises(GateClosed, match="hub"):
            base.confirm(made.id, by="mallory")
        fine = base.capture(
            Gotcha(about="town3", rule="closed in May"), by="ann", evidence=Evidence.EXECUTED
        )
        assert fine.findings == ()


def test_proposals_to_retire_need_several_people(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        one, two = learn(base, ORDERS, STALE)
        base.outcome([one], by="ann", good=False)
        assert base.usefulness(one).bad == 0, "not released"
        base.release(by="eve")
        text = base.context("status of orders", Session(id="1")).text
        for _ in range(20):
            base.outcome([one, two], by="mallory", good=False)
        assert base.retirements() == (), "one person alone discredits nothing"
        for person in ("ann", "bob"):
            base.outcome([one], by=person, good=False)
            base.outcome([two], by=person, good=True)
        assert [item.id for item in base.retirements()] == [one]
        assert base.entry(one).status is Status.RELEASED, "only a proposal"
        assert base.context("status of orders", Session(id="2")).text == text


def test_doubt_is_the_tail_of_a_beta() -> None:
    assert usefulness("x", []).doubt == 0.5
    assert usefulness("x", [(0, 3)]).doubt == 1 - 0.5**4
    assert usefulness("x", [(2, 0)]).doubt == 0.5**3


def test_nobody_pushes_out_the_sessions_of_others() -> None:
    sessions = Sessions(limit=4)
    mine = Session(id="1", scope=Scope(user="ann"))
    sessions.get(mine, "r1").offered.add("x")
    for number in range(50):
        sessions.get(Session(id=str(number), scope=Scope(user="mallory")), "r1")
    assert sessions.offered(mine) == {"x"}
