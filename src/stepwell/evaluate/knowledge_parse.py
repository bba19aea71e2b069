"""A question, taken apart with the visible schema alone: no model, no context, no ground truth."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, replace

from stepwell.evaluate.knowledge_world import SchemaView


class Aggregate(enum.Enum):
    """What is asked of the rows."""

    COUNT = "COUNT"
    SUM = "SUM"
    AVG = "AVG"
    MAX = "MAX"
    LIST = "LIST"


_SAID = {
    Aggregate.LIST: ("list", "show", "name"),
    Aggregate.SUM: ("total", "sum", "add", "overall"),
    Aggregate.AVG: ("average", "mean"),
    Aggregate.MAX: ("highest", "largest", "maximum", "top"),
    Aggregate.COUNT: ("count", "number", "many"),
}
# English that says nothing of which rows are meant. `fiscal`, `calendar`, units and names of codes
# are not in it.
_IDLE = frozenset(
    "a all among and are as belong by came currently do every find for from give had has have how "
    "in is large made me much of on one or over paid say saying tell that the their there through "
    "to up was we were what which who whose with year years was through"
    " ".split()
    + [word for said in _SAID.values() for word in said]
)
_WORD = re.compile(r"[a-z0-9_]+")
_YEAR = re.compile(r"^(19|20)\d\d$")


@dataclass(frozen=True, slots=True)
class Intent:
    """`tables` in the order of mention; `columns`, `places`: every `table.column` that a word could
    mean or a value could stand in; `values`, `years` in the order of mention; `terms`: words that
    the schema does not explain."""

    aggregate: Aggregate
    tables: tuple[str, ...]
    columns: frozenset[str]
    places: tuple[tuple[str, ...], ...]
    values: tuple[str, ...]
    years: tuple[str, ...]
    terms: frozenset[str]

    @property
    def slots(self) -> tuple[str, ...]:
        """What a sibling has otherwise."""
        return (*self.values, *self.years)

    def is_sibling(self, other: Intent) -> bool:
        """Whether both ask the same of perhaps other values. The order of mention is nothing."""
        return _shape(self) == _shape(other)


def _shape(intent: Intent) -> Intent:
    return replace(
        intent,
        tables=tuple(sorted(intent.tables)),
        places=tuple(sorted(intent.places)),
        values=(),
        years=("",) * len(intent.years),
    )


def parse(question: str, view: SchemaView) -> Intent:
    """What the question asks, as far as its words and the schema say."""
    words = _WORD.findall(question.casefold())
    tables = tuple(dict.fromkeys(word for word in words if word in view.columns))
    near = tables or tuple(view.columns)
    columns: set[str] = set()
    found: list[tuple[str, tuple[str, ...]]] = []
    terms = set()
    for word in words:
        named = [f"{table}.{word}" for table in near if word in view.columns[table]]
        if word in tables or _YEAR.match(word):
            continue
        if named:
            columns.update(named)
        elif places := _places(word, near, view):
            found.append((word, places))
        elif word not in _IDLE:
            terms.add(word)
    return Intent(
        aggregate=_aggregate(words),
        tables=tables,
        columns=frozenset(columns - _implied(found)),
        places=tuple(places for _, places in found),
        values=tuple(word for word, _ in found),
        years=tuple(word for word in words if _YEAR.match(word)),
        terms=frozenset(terms),
    )


def _implied(found: list[tuple[str, tuple[str, ...]]]) -> set[str]:
    """`the web channel` and `by web` are the same: a column whose value is named says no more."""
    return {places[0] for _, places in found if len(places) == 1}


def _places(word: str, near: tuple[str, ...], view: SchemaView) -> tuple[str, ...]:
    all_of = view.values.get(word, ())
    return tuple(place for place in all_of if place.partition(".")[0] in near)


def _aggregate(words: list[str]) -> Aggregate:
    """`overall` and `total` win over `how many`; `name` counts only where it is asked to list."""
    said = set(words)
    if said & {"list", "show", "which", "every"} and "name" in said:
        return Aggregate.LIST
    for aggregate in (Aggregate.SUM, Aggregate.AVG, Aggregate.MAX):
        if said & set(_SAID[aggregate]):
            return aggregate
    return Aggregate.COUNT
