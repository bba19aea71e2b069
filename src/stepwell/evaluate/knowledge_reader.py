"""The deterministic reader of Level A: a question, the visible schema and a context in, SQL out.

It knows no world: what it does not find in the context it assumes as a newcomer would (the column
called `status`, the key called `<table>_id`, calendar years, numbers as they stand). It believes
what it reads, wrong or not, and copies a query that worked before: that is what makes wrong entries
harmful here as they are with models. It understands the few forms of rules below and no others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.evaluate.knowledge_parse import Aggregate, Intent, parse
from stepwell.evaluate.knowledge_world import SchemaView
from stepwell.knowledge.payload import Gotcha, Metric, Payload, Relationship, Template

_INSTEAD = re.compile(r"Use (\w+\.\w+) instead of (\w+\.\w+)")
_CODE = re.compile(r"(\d+) means (\w+)")
_DIVIDE = re.compile(r"Divide by (\d+)")
_ONLY = re.compile(r"Only rows where (.+?) count")
_FILTER_IN = re.compile(r"Filter (\w+) with IN over (\w+)")
_MULTIPLY = re.compile(r"Multiply by (\w+\.\w+) where (\w+\.\w+) = (\w+\.\w+)")
_MONTH = re.compile(r"Fiscal years begin in month (\d\d)")
_WHERE = re.compile(r"FILTER \(WHERE (.+)\)$")
# Units that a column may be asked for as it is stored.
_STORED = {"cents": 100, "grams": 1000}


@dataclass(slots=True)
class _Notes:
    """What the context said, by what it is about. The first that says it counts."""

    instead: dict[str, str] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    divide: dict[str, int] = field(default_factory=dict)
    only: dict[str, str] = field(default_factory=dict)
    filter_in: set[tuple[str, str]] = field(default_factory=set)
    multiply: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    month: dict[str, str] = field(default_factory=dict)
    joins: dict[frozenset[str], tuple[str, str]] = field(default_factory=dict)
    metrics: list[tuple[frozenset[str], str, str]] = field(default_factory=list)


def answer(question: str, view: SchemaView, context: Sequence[Payload]) -> str:
    """SQL; empty where the reader does not know how. `context`: payloads in rendered order."""
    intent = parse(question, view)
    for payload in context:
        if isinstance(payload, Template):
            known = parse(payload.question, view)
            if known.is_sibling(intent) and (sql := _refill(payload.sql, known, intent)):
                return sql
    return _compose(intent, view, _read(context))


def _refill(sql: str, known: Intent, asked: Intent) -> str:
    """The query with the asked slots in place of its own; empty where one is not in it."""
    for old, new in zip(known.values, asked.values, strict=True):
        if old != new:
            if f"'{old}'" not in sql:
                return ""
            sql = sql.replace(f"'{old}'", f"'{new}'")
    return _shift_years(sql, known.years, asked.years)


def _shift_years(sql: str, known: Sequence[str], asked: Sequence[str]) -> str:
    if not known or known == asked:
        return sql
    if known[0] not in sql:
        return ""
    step = int(asked[0]) - int(known[0])
    return re.sub(r"'((?:19|20)\d\d)(?=[-'])", lambda m: f"'{int(m[1]) + step}", sql)


def _read(context: Sequence[Payload]) -> _Notes:
    notes = _Notes()
    for payload in context:
        if isinstance(payload, Relationship):
            tables = frozenset(side.partition(".")[0] for side in (payload.left, payload.right))
            notes.joins.setdefault(tables, (payload.left, payload.right))
        elif isinstance(payload, Metric) and (found := _WHERE.search(payload.expression)):
            words = frozenset(payload.name.casefold().split())
            notes.metrics.append((words, payload.table, found[1]))
        elif isinstance(payload, Gotcha):
            _read_rule(payload.about, payload.rule, notes)
    return notes


def _read_rule(about: str, rule: str, notes: _Notes) -> None:
    if found := _INSTEAD.search(rule):
        notes.instead.setdefault(found[2], found[1])
    if codes := _CODE.findall(rule):
        notes.codes.setdefault(about, {name: code for code, name in codes})
    if found := _DIVIDE.search(rule):
        notes.divide.setdefault(about, int(found[1]))
    if found := _ONLY.search(rule):
        notes.only.setdefault(about, found[1])
    if found := _FILTER_IN.search(rule):
        notes.filter_in.add((found[1], found[2]))
    if found := _MULTIPLY.search(rule):
        notes.multiply.setdefault(about, (found[1], found[2], found[3]))
    if found := _MONTH.search(rule):
        notes.month.setdefault(about.rpartition(" ")[2], found[1])


def _compose(intent: Intent, view: SchemaView, notes: _Notes) -> str:
    measure = _measure(intent, view)
    main = measure.partition(".")[0] if measure else (intent.tables or ("",))[0]
    if main not in view.columns:
        return ""
    joins: dict[str, str] = {}
    where: list[str] = []
    conditions = [*_value_filters(intent, notes), *_flags(intent, measure, view, notes)]
    for table in intent.tables:
        own = [text for place, text in conditions if place == table]
        if table == main:
            where += own
        elif not (on := _join(main, table, view, notes)):
            return ""
        elif (main, table) in notes.filter_in:
            inner, outer = (on[0], on[1]) if on[0].startswith(f"{table}.") else (on[1], on[0])
            condition = f" WHERE {' AND '.join(own)}" if own else ""
            where.append(f"{outer} IN (SELECT {inner} FROM {table}{condition})")
        else:
            joins[table] = f"{on[0]} = {on[1]}"
            where += own
    where += [notes.only[t] for t in intent.tables if t in notes.only]
    where += _period(intent, main, view, notes)
    what = _what(intent, measure, notes, joins)
    joined = "".join(f" JOIN {table} ON {on}" for table, on in joins.items())
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    return f"SELECT {what} FROM {main}{joined}{condition}"


def _measure(intent: Intent, view: SchemaView) -> str:
    """The column that is added up, compared or listed; empty for a count."""
    if intent.aggregate is Aggregate.COUNT:
        return ""
    named = sorted(intent.columns)
    return named[0] if named else ""


def _what(intent: Intent, measure: str, notes: _Notes, joins: dict[str, str]) -> str:
    if intent.aggregate is Aggregate.COUNT:
        return "COUNT(*)"
    if intent.aggregate is Aggregate.LIST:
        return measure
    inner = measure
    if measure in notes.multiply:
        rate, left, right = notes.multiply[measure]
        inner = f"{measure} * {rate}"
        joins[rate.partition(".")[0]] = f"{left} = {right}"
    divisor = notes.divide.get(measure)
    if divisor is None or any(_STORED.get(term) == divisor for term in intent.terms):
        return f"{intent.aggregate.value}({inner})"
    return f"{intent.aggregate.value}({inner}) / {divisor}.0"


def _value_filters(intent: Intent, notes: _Notes) -> list[tuple[str, str]]:
    """(table, condition) for each value: in the column that is named, else in `status`, else in the
    first that holds it; and where a rule names another instead, there."""
    out = []
    for value, places in zip(intent.values, intent.places, strict=True):
        named = [place for place in places if place in intent.columns]
        usual = [place for place in places if place.endswith(".status")]
        place = (named or usual or list(places))[0]
        if not named:
            place = notes.instead.get(place, place)
        out.append((place.partition(".")[0], f"{place} = '{value}'"))
    return out


def _flags(intent: Intent, measure: str, view: SchemaView, notes: _Notes) -> list[tuple[str, str]]:
    """Columns that are named without a value that the data holds: metrics, codes, yes or no."""
    out = []
    for place in sorted(intent.columns - {measure}):
        table, _, column = place.partition(".")
        metric = _metric(column, table, notes)
        codes = notes.codes.get(place, {})
        coded = sorted(intent.terms & set(codes))
        if metric:
            out.append((table, metric))
        elif coded:
            out.append((table, f"{place} = {codes[coded[0]]}"))
        elif intent.terms and not intent.years:
            out.append((table, f"{place} = '{min(intent.terms)}'"))
        elif place not in {p for places in intent.places for p in places}:
            out.append((table, f"{place} = 1"))
    return out


def _metric(column: str, table: str, notes: _Notes) -> str:
    for words, of, condition in notes.metrics:
        if words == {column, table} and of == table:
            return condition
    return ""


def _join(main: str, table: str, view: SchemaView, notes: _Notes) -> tuple[str, str] | None:
    if told := notes.joins.get(frozenset((main, table))):
        return told
    for one, other in ((main, table), (table, main)):
        key = f"{other.removesuffix('s')}_id"
        if key in view.columns[one]:
            return f"{one}.{key}", f"{other}.id"
    return None


def _period(intent: Intent, main: str, view: SchemaView, notes: _Notes) -> list[str]:
    """Whole years on the table's one date column; fiscal where both question and context say so."""
    dates = [column for column in view.columns[main] if column.endswith("_on")]
    if not intent.years or not dates:
        return []
    year, column = int(intent.years[0]), f"{main}.{dates[0]}"
    start = f"{notes.month[main] if 'fiscal' in intent.terms and main in notes.month else '01'}-01"
    return [f"{column} >= '{year}-{start}'", f"{column} < '{year + 1}-{start}'"]
