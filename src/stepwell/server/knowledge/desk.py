"""What every verb on a tenant's knowledge gets, and how entries become JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stepwell.base.config import KnowledgeConfig
from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.errors import GateClosed
from stepwell.knowledge.payload import Kind, Payload, make_payload
from stepwell.knowledge.policy import Captured
from stepwell.server.auth import Caller
from stepwell.server.fields import Fields, check_text
from stepwell.server.knowledge.books import Book
from stepwell.server.knowledge.casefile import CaseFile
from stepwell.server.knowledge.counts import KnowledgeCounts

MOST = 200
_USUAL = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call. `names`: of its path, `query`: behind its `?`."""

    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    def fields(self, *valid: str) -> Fields:
        """The body, of which these fields may be set."""
        fields = Fields(self.body)
        fields.refuse_unknown(valid)
        return fields

    def asked(self, *valid: str) -> Fields:
        """The query, of which these may be set."""
        fields = Fields(self.query)
        fields.refuse_unknown(valid)
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A caller at a tenant's book, on the book's thread."""

    book: Book
    caller: Caller
    settings: KnowledgeConfig
    counts: KnowledgeCounts

    @property
    def base(self) -> Knowledge:
        return self.book.base

    @property
    def cases(self) -> CaseFile:
        """Of the tenant, whose base is then open: its folder is there, and nobody else's."""
        _ = self.base
        return self.book.cases

    @property
    def person(self) -> str:
        return self.caller.person

    def check_capture(self) -> None:
        """Raise GateClosed where nothing is taken in."""
        if self.settings.capture == "off":
            raise GateClosed(
                "capture is off on this server.",
                hint='Set knowledge.capture = "quarantine" and start it again.',
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`status`: of HTTP. `lines`: instead of the one JSON value, one a line."""

    value: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    lines: Sequence[Mapping[str, Any]] | None = None


def entry_json(entry: Entry) -> dict[str, Any]:
    """Everything of an entry."""
    made = entry.provenance
    return {
        "id": entry.id,
        "kind": entry.kind.value,
        "status": entry.status.value,
        "area": entry.area,
        "payload": asdict(entry.payload),
        "triggers": list(entry.triggers),
        "depends_on": [asdict(item) for item in entry.depends_on],
        "valid_from": entry.validity.first,
        "valid_to": entry.validity.last,
        "trust": entry.trust.name.lower(),
        "source": made.source.value,
        "by": made.by,
        "at": made.at,
        "parents": list(made.parents),
        "supersedes": list(entry.supersedes),
        "contradicts": list(entry.contradicts),
    }


def captured_json(captured: Captured) -> dict[str, Any]:
    """What a capture came to."""
    return asdict(captured) | {"outcome": captured.outcome.value}


def read_kind(fields: Fields) -> Kind:
    """The field `kind`."""
    return read_choice(fields, "kind", {kind.value: kind for kind in Kind})


def read_choice(fields: Fields, name: str, valid: Mapping[str, Any]) -> Any:
    """A field that must be there, as one of `valid`. Raises InvalidParameter."""
    value = fields.get(name)
    if not isinstance(value, str) or value not in valid:
        shown = "is missing" if value is None else f"is {value!r:.80}"
        raise InvalidParameter(f"{name} {shown}.", hint=f"Valid: {', '.join(valid)}.", param=name)
    return valid[value]


def read_payload(fields: Fields, kind: Kind, name: str = "payload") -> Payload:
    """A payload of that kind. Raises InvalidEntry, InvalidParameter."""
    table = fields.table(name)
    if table is None:
        raise InvalidParameter(f"{name} is missing.", hint="An object.", param=name)
    return make_payload(kind, table)


def needed(fields: Fields, name: str) -> str:
    """A text that must be there."""
    text = check_text(fields.string(name, ""), where=name)
    if not text.strip():
        raise InvalidParameter(f"{name} is missing.", hint="A text.", param=name)
    return text


def page(rows: Sequence[dict[str, Any]], asked: Fields, key: str = "id") -> dict[str, Any]:
    """At most `limit` rows behind the one whose key is `after`, and where to go on."""
    limit = read_number(asked, "limit", usual=_USUAL, most=MOST)
    after = asked.string("after", "")
    rest = list(rows)
    if after:
        places = [i for i, row in enumerate(rows) if row[key] == after]
        if not places:
            raise InvalidParameter(
                f"after is {after!r:.80}, which is not listed.",
                hint="Give the `next` of the page before.",
                param="after",
            )
        rest = rest[places[0] + 1 :]
    more = len(rest) > limit
    shown = rest[:limit]
    return {"data": shown, "next": shown[-1][key] if more else None}


def read_number(asked: Fields, name: str, *, usual: int, most: int) -> int:
    """An integer of a query."""
    text = asked.string(name, str(usual))
    if not text.isdigit() or not 1 <= int(text) <= most:
        raise InvalidParameter(f"{name} is {text!r:.40}.", hint=f"1 to {most}.", param=name)
    return int(text)
