"""A named entity always fires; what only looks like it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.knowledge.entities import Entities, parts
from stepwell.knowledge.words import words

TRIGGERS = {
    "1": ["orders.status"],
    "2": ["active customers"],
    "3": ["refunds"],
    "4": ["orders + cancelled"],
}


def no_other(word: str) -> bool:
    return False


@pytest.fixture
def entities() -> Entities:
    found = Entities()
    for key, triggers in TRIGGERS.items():
        found.add(key, triggers, {w for t in triggers for w in words(t)} | {"state"})
    return found


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("What is the status of our orders?", {"1"}),
        ("status of the customers", set()),
        ("How many ACTIVE customers", {"2"}),
        ("customers who are active", set()),
        ("refund per month", {"3"}),
        ("refnuds per month", {"3"}),
        ("refuse per month", set()),
        ("Which orders were canceled", {"4"}),
        ("inactive customers", set()),
        ("the state of orders", set()),
        ("", set()),
    ],
)
def test_what_fires(entities: Entities, text: str, keys: set[str]) -> None:
    assert set(entities.named(text, no_other)) == keys


def test_nothing_is_named_by_nothing() -> None:
    assert not Entities().named("refunds", no_other)


WORD = st.sampled_from(["order", "state", "net", "sale", "customer", "cost", "active", "x"])


@given(
    st.lists(st.lists(WORD, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=5),
    st.lists(WORD, max_size=8),
)
def test_phrases_agree_with_a_plain_search(triggers: list[str], asked: list[str]) -> None:
    found = Entities()
    for key, trigger in enumerate(triggers):
        found.add(str(key), [trigger], trigger.split() + asked)
    text = f" {' '.join(words(' '.join(asked)))} "
    plain = {str(key) for key, t in enumerate(triggers) if f" {' '.join(words(t))} " in text}
    assert set(found.named(" ".join(asked), no_other)) == plain


def test_parts_of_a_trigger() -> None:
    assert parts("orders.status") == ("order", "status")
    assert parts("net sales") == ("net sale",)
    assert parts(" . ") == ()
