"""Releases, rollbacks, drift, the harness: what is in force, to the byte."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.context import Context
from stepwell.knowledge.entry import Status
from stepwell.knowledge.errors import GateClosed, KnowledgeDamaged, ReleaseBlocked, UnknownRelease
from stepwell.knowledge.harness import Case
from stepwell.knowledge.payload import Gotcha, Metric, Schema, Template
from stepwell.knowledge.policy import Evidence, Scope, Session
from tests.knowledge.shop import ACTIVE, ALL, JOIN, OPEN_ORDERS, ORDERS, STALE, learn, shop

QUESTIONS = ("status of open orders", "how many active customers", "refund policy", "weather")


def answers(base: Knowledge) -> list[tuple[str, tuple[str, ...], str]]:
    found = []
    for number, question in enumerate(QUESTIONS):
        given = base.context(question, Session(id=f"new{number}", scope=Scope(user="zoe")))
        found.append((given.text, given.fresh, given.release))
    return found


def test_a_rollback_gives_the_same_bytes(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL[:3])
        base.release(by="eve")
        first = answers(base)
        learn(base, *ALL[3:], Metric(name="margin", expression="1", table="orders"))
        base.release(by="eve")
        second = answers(base)
        assert first != second
        assert base.rollback("r0001", by="eve") == "r0001" == base.current
        assert answers(base) == first
        base.rollback("r0002", by="eve")
        assert answers(base) == second
        with pytest.raises(UnknownRelease):
            base.rollback("r0009", by="eve")
        base.rollback("r0001", by="eve")
    with shop(tmp_path) as base:
        assert answers(base) == first, "over a restart"
    (tmp_path / "shop" / "index.sqlite").unlink()
    with shop(tmp_path) as base:
        assert answers(base) == first, "with the index built anew"
        base.rollback("r0002", by="eve")
        assert answers(base) == second


def test_after_a_rollback_the_next_release_starts_there(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, ORDERS)
        base.release(by="eve")
        (bad,) = learn(base, STALE)
        base.release(by="eve")
        base.rollback("r0001", by="eve")
        assert base.entry(bad).status is Status.RETIRED
        learn(base, ACTIVE)
        assert base.release(by="eve") == "r0003"
        assert bad not in {entry.id for entry in base.entries(Status.RELEASED)}
        learn(base, STALE)
        base.release(by="eve")
        assert base.entry(bad).status is Status.RELEASED
        assert [name for name, _ in base.history(bad)] == ["r0002", "r0003", "r0004"]


def test_retiring_and_the_diff(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        one, _ = learn(base, ORDERS, ACTIVE)
        base.release(by="eve")
        with pytest.raises(GateClosed, match="released"):
            base.reject(one, by="eve")
        assert base.plan(by="eve", retire=[one]).removed == (one,)
        base.release(by="eve", retire=[one])
        assert base.entry(one).status is Status.RETIRED
        assert f'-id: "{one}"' in base.diff("r0001", "r0002")


def test_what_was_known_before_any_schema_was_is_compared_with_the_first(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        (query,) = learn(base, OPEN_ORDERS)
        made = base.capture(
            ACTIVE, by="ann", evidence=Evidence.SEED, depends_on=["customers", "staff"]
        )
        first = {"orders": "a", "orders.state": "b", "customers": "c"}
        assert base.outdated(first) == base.drift(first) == ()
        base.confirm(made.id, by="ann")
        assert base.drift({**first, "customers": "new"}) == (made.id,)
        assert base.drift({"customers": "c"}) == (query,)
        with pytest.raises(GateClosed, match=r"orders, orders\.state is gone"):
            base.revalidate(query, by="ann")
        changed = {**first, "orders.state": "new"}
        assert base.drift(changed) == (query,)
        base.revalidate(query, by="ann")
        assert base.drift(changed) == () and base.drift(first) == (query,)


def test_drift_takes_dependants_out_until_someone_vouches(tmp_path: Path) -> None:
    now = {"orders": "a", "orders.state": "b", "customers": "c"}
    question = "how many open orders are there"
    with shop(tmp_path) as base:
        base.drift(now)
        (schema,) = learn(base, ORDERS, depends_on=["orders"])
        (query,) = learn(base, OPEN_ORDERS)
        (metric,) = learn(base, ACTIVE, depends_on=["customers"])
        base.release(by="eve")
        before = base.context(question, Session(id="0"))
        assert {schema, query} <= set(before.ids) and base.drift(now) == ()
        changed = {**now, "orders.state": "new"}
        assert base.drift(changed) == (query,)
        assert query not in base.context(question, Session(id="0")).text
        gone = {"customers": "c"}
        assert base.drift(gone) == tuple(sorted((query, schema)))
        after = base.context(question, Session(id="0"))
        assert metric in after.pack and schema not in after.text
        with pytest.raises(GateClosed, match="gone"):
            base.revalidate(query, by="ann")
        base.drift(changed)
        base.revalidate(query, by="ann")
        assert query in base.context(question, Session(id="0")).text
        base.drift(now)
        assert base.context(question, Session(id="1")).text == before.text
    with shop(tmp_path) as base:
        assert base.drift(gone) == tuple(sorted((query, schema)))


def reader(case: Case, given: Context) -> bool:
    """Answers from the first template or caution that the context holds."""
    return case.expect in given.text


CASES = [
    Case(id="open", question="how many open orders", expect="state = 'open'"),
    Case(id="active", question="active customers", expect="no staff"),
    Case(id="other", question="weather", expect="rain"),
]


def test_a_release_that_breaks_a_case_is_blocked(tmp_path: Path) -> None:
    bad = Template(
        question=OPEN_ORDERS.question, sql="SELECT count(*) FROM orders WHERE status = 1"
    )
    with shop(tmp_path) as base:
        (good,) = learn(base, OPEN_ORDERS)
        base.release(by="eve", cases=CASES, reader=reader)
        learn(base, JOIN)
        assert base.release(by="eve", cases=CASES, reader=reader) == "r0002"
        (wrong,) = learn(base, bad)
        base.confirm(wrong, by="ann", supersedes=[good])
        with pytest.raises(ReleaseBlocked, match="open"):
            base.release(by="eve", cases=CASES, reader=reader)
        assert base.current == "r0002" and base.entry(wrong).status is Status.CONFIRMED
        plan = base.plan(by="eve")
        verdict = base.judge(plan, CASES, reader)
        assert verdict.judged == verdict.broken == ("open",)
        waiver = base.sign_waiver(plan, case_id="open", by="eve", reason="renamed")
        learn(base, Gotcha(about="x.y", rule="z"))
        with pytest.raises(ReleaseBlocked):
            base.release(by="eve", cases=CASES, reader=reader, waivers=[waiver])
        plan = base.plan(by="eve")
        waiver = base.sign_waiver(plan, case_id="open", by="eve", reason="renamed")
        assert base.release(by="eve", cases=CASES, reader=reader, waivers=[waiver]) == "r0003"


def test_a_damaged_release_is_not_loaded(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL)
        base.release(by="eve")
    pack = next((tmp_path / "shop" / "truth.git" / "objects").rglob("*.pack"))
    whole = bytearray(pack.read_bytes())
    whole[len(whole) // 2] ^= 255
    pack.chmod(0o644)
    pack.write_bytes(whole)
    with pytest.raises(KnowledgeDamaged):
        shop(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET by = 'bob' WHERE number = 3",
        "DELETE FROM events WHERE number = 2",
        "UPDATE events SET number = number + 100 WHERE number = 1",
    ],
)
def test_a_changed_event_is_seen(tmp_path: Path, change: str) -> None:
    with shop(tmp_path) as base:
        learn(base, *ALL)
    with shop(tmp_path) as base:
        assert len(base.events()) == 2 * len(ALL)
    with contextlib.closing(sqlite3.connect(tmp_path / "shop" / "records.sqlite")) as db, db:
        db.execute(change)
    with pytest.raises(KnowledgeDamaged, match="event"):
        shop(tmp_path)


def test_culprits_are_found_by_leaving_out(tmp_path: Path) -> None:
    wrong = Template(question="How many open orders?", sql="SELECT 17")
    with shop(tmp_path) as base:
        learn(base, *ALL)
        (bad,) = learn(base, wrong)
        plan = base.plan(by="eve")
        golden = [Case(id="open", question="how many open orders are there"), CASES[1]]

        def right(case: Case, given: Context) -> bool:
            return "SELECT 17" not in given.text

        assert base.judge(plan, golden, right).failing == ("open",)
        assert base.culprits(plan, golden, right) == {"open": (bad,)}


def test_a_pack_is_cut_and_canonical(tmp_path: Path) -> None:
    tables = [Schema(table=f"t{n:02}", columns=("id int",)) for n in range(30)]
    texts = []
    for tenant, order in (("a", tables), ("b", tables[::-1])):
        with shop(tmp_path, tenant=tenant, pack_tokens=300) as base:
            learn(base, *order)
            base.release(by="eve")
            texts.append(base.context("nothing", Session(id="1")).pack)
    assert texts[0] == texts[1] and "t00" in texts[0] and "t29" not in texts[0]
