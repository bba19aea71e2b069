"""What an entry says, one type for each kind.

Every field is text or a tuple of texts, so that one reader and one writer serve all kinds
(`markdown`). `subject` is what a payload speaks of, `claim` what it says of it: two of one subject
with different claims contradict each other (`gate`), with the same claim they are the same.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields

from stepwell.base.errors import unknown_name
from stepwell.knowledge.errors import InvalidEntry
from stepwell.knowledge.sql import fingerprint, is_query
from stepwell.knowledge.words import skeleton, slots, squeeze


class Kind(enum.Enum):
    """In the order in which they are rendered."""

    SCHEMA = "schema"
    RELATIONSHIP = "relationship"
    METRIC = "metric"
    GOTCHA = "gotcha"
    ERROR_RULE = "error_rule"
    TEMPLATE = "template"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A table. `columns`: one text each, `name type: meaning`."""

    table: str
    columns: tuple[str, ...]
    note: str = ""

    @property
    def subject(self) -> str:
        return squeeze(self.table)

    @property
    def claim(self) -> str:
        return squeeze("\n".join((*self.columns, self.note)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relationship:
    """How two tables are joined. `left`, `right`: `table.column`."""

    left: str
    right: str
    note: str = ""

    @property
    def subject(self) -> str:
        return " ".join(sorted(squeeze(side.partition(".")[0]) for side in (self.left, self.right)))

    @property
    def claim(self) -> str:
        return " ".join(sorted((squeeze(self.left), squeeze(self.right))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A query known to answer a question."""

    question: str
    sql: str

    @property
    def subject(self) -> str:
        return skeleton(self.question)

    @property
    def claim(self) -> str:
        return fingerprint(self.sql, slots(self.question))


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`name` means `expression` over `table`. `expression`: SQL, without SELECT."""

    name: str
    expression: str
    table: str
    note: str = ""

    @property
    def subject(self) -> str:
        return squeeze(self.name)

    @property
    def claim(self) -> str:
        return f"{squeeze(self.table)}: {squeeze(self.expression)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gotcha:
    """A trap. `about`: table, `table.column` or term; `rule`: what to do instead."""

    about: str
    rule: str

    @property
    def subject(self) -> str:
        return squeeze(self.about)

    @property
    def claim(self) -> str:
        return squeeze(self.rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRule:
    """`signature`: the failure without its literals; `fix`: what avoids it."""

    signature: str
    fix: str

    @property
    def subject(self) -> str:
        return squeeze(self.signature)

    @property
    def claim(self) -> str:
        return squeeze(self.fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Free text."""

    title: str
    text: str

    @property
    def subject(self) -> str:
        return squeeze(self.title)

    @property
    def claim(self) -> str:
        return squeeze(self.text)


Payload = Schema | Relationship | Template | Metric | Gotcha | ErrorRule | Document

PAYLOADS: Mapping[Kind, type[Payload]] = {
    Kind.SCHEMA: Schema,
    Kind.RELATIONSHIP: Relationship,
    Kind.METRIC: Metric,
    Kind.GOTCHA: Gotcha,
    Kind.ERROR_RULE: ErrorRule,
    Kind.TEMPLATE: Template,
    Kind.DOCUMENT: Document,
}
_KINDS = {payload: kind for kind, payload in PAYLOADS.items()}


def kind_of(payload: Payload) -> Kind:
    """The kind that a payload's type stands for."""
    return _KINDS[type(payload)]


def texts(payload: Payload) -> dict[str, str]:
    """Field name -> text; several texts are joined by lines."""
    out = {}
    for item in fields(payload):
        value = getattr(payload, item.name)
        out[item.name] = value if isinstance(value, str) else "\n".join(value)
    return out


def make_payload(kind: Kind, values: Mapping[str, object]) -> Payload:
    """From field name -> text or list of texts. Raises InvalidEntry."""
    shape = PAYLOADS[kind]
    known = {item.name: item for item in fields(shape)}
    for name in values:
        if name not in known:
            message, hint = unknown_name(f"field of {kind.value}", name, known)
            raise InvalidEntry(message, hint=hint, param=name)
    ready: dict[str, object] = {}
    for name, value in values.items():
        many = known[name].type == "tuple[str, ...]"
        ready[name] = tuple(value) if many and isinstance(value, list) else value
    try:
        payload = shape(**ready)  # type: ignore[arg-type]
    except TypeError as error:
        raise InvalidEntry(
            f"{kind.value}: {error}", hint=f"Fields: {', '.join(known)}.", param="payload"
        ) from None
    check(payload)
    return payload


def check(payload: Payload) -> None:
    """Raise InvalidEntry unless every field is writable text and the needed ones are not empty."""
    for item in fields(payload):
        value = getattr(payload, item.name)
        parts = (value,) if isinstance(value, str) else value
        many = item.type == "tuple[str, ...]"
        if many != isinstance(value, tuple) or not all(isinstance(part, str) for part in parts):
            raise InvalidEntry(f"{item.name} is not {item.type}.", param=item.name)
        if item.name != "note" and not "".join(parts).strip():
            raise InvalidEntry(f"{item.name} is empty.", param=item.name)
        if any("\ud800" <= char <= "\udfff" for part in parts for char in part):
            raise InvalidEntry(f"{item.name} holds half a character.", param=item.name)
    if isinstance(payload, Template) and not is_query(payload.sql):
        raise InvalidEntry("sql is not a query.", hint="One SELECT statement.", param="sql")
