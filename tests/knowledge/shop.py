"""A small shop, for the tests: entries, a knowledge base that captures, a clock that counts."""

from __future__ import annotations

from pathlib import Path

from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.payload import (
    Document,
    Gotcha,
    Metric,
    Payload,
    Relationship,
    Schema,
    Template,
)
from stepwell.knowledge.policy import Capture, Evidence, Policy, Scope, Session

ORDERS = Schema(table="orders", columns=("id int", "state text: where it is", "cust int"))
JOIN = Relationship(left="orders.cust", right="customers.id")
ACTIVE = Metric(name="active customers", expression="count(*)", table="customers", note="no staff")
STALE = Gotcha(about="orders.status", rule="status is stale, use state")
OPEN_ORDERS = Template(
    question="How many open orders are there?",
    sql="SELECT count(*) FROM orders WHERE state = 'open'",
)
REFUNDS = Document(title="Refund policy", text="Refunds are booked on the day of the return.")
ALL: tuple[Payload, ...] = (ORDERS, JOIN, ACTIVE, STALE, OPEN_ORDERS, REFUNDS)

ANN = Session(id="s1", scope=Scope(user="ann"))
BOB = Session(id="s2", scope=Scope(user="bob"))


class Clock:
    """A second later at every look, unless it stands still."""

    def __init__(self, *, still: bool = False) -> None:
        self.now, self.step = 1_790_000_000.0, 0.0 if still else 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def shop(folder: Path, *, tenant: str = "shop", **rules: object) -> Knowledge:
    policy = Policy(capture=Capture.QUARANTINE, **rules)  # type: ignore[arg-type]
    return Knowledge.open(folder, tenant=tenant, policy=policy, clock=Clock())


def learn(base: Knowledge, *payloads: Payload, by: str = "ann", **options: object) -> list[str]:
    """Capture and confirm; the ids."""
    names = []
    for payload in payloads:
        made = base.capture(
            payload,
            by=by,
            evidence=Evidence.USER_CONFIRMED,
            **options,  # type: ignore[arg-type]
        )
        base.confirm(made.id, by=by)
        names.append(made.id)
    return names
