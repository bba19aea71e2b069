"""One piece of knowledge: what it says, when it applies, where it came from, how far it got."""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from stepwell.knowledge.errors import InvalidEntry
from stepwell.knowledge.payload import Kind, Payload, check, kind_of

AREA = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$|^$")
_DAY = re.compile(r"^\d{4}-\d\d-\d\d$|^$")


class Source(enum.Enum):
    """Who said it, stamped by the server and never read from the text."""

    USER = "user"
    MODEL = "model"
    TOOL = "tool"
    OUTSIDE_TOOL = "outside_tool"
    DOCUMENT = "document"


class Trust(enum.IntEnum):
    """Ordered: an entry has the least of its source's and its parents'."""

    OUTSIDE = 0
    MODEL = 1
    DOCUMENT = 2
    TOOL = 3
    USER = 4


_TRUST = {
    Source.USER: Trust.USER,
    Source.MODEL: Trust.MODEL,
    Source.TOOL: Trust.TOOL,
    Source.OUTSIDE_TOOL: Trust.OUTSIDE,
    Source.DOCUMENT: Trust.DOCUMENT,
}


class Status(enum.Enum):
    """CANDIDATE: nobody's context. CONFIRMED: in its confirmers' context. RELEASED: everybody's,
    while a release that holds it is current. RETIRED: rejected or superseded. ERASED: gone."""

    CANDIDATE = "candidate"
    CONFIRMED = "confirmed"
    RELEASED = "released"
    RETIRED = "retired"
    ERASED = "erased"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Something of the schema (`table` or `table.column`) and its hash when this was learnt. An
    empty hash: it was not known then, so drift cannot be seen."""

    name: str
    hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """`by`: a principal's id. `at`: UTC, ISO 8601. `parents`: entries that it was made from."""

    source: Source
    by: str
    at: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Days, UTC, both included; empty: without end on that side."""

    first: str = ""
    last: str = ""

    def holds(self, day: str) -> bool:
        """`day`: ISO date."""
        return self.first <= day and (not self.last or day <= self.last)

    @property
    def limited(self) -> bool:
        return bool(self.first or self.last)


ALWAYS = Validity()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`area`: the database or subject it belongs to, empty for all. `triggers`: names or phrases
    that force or fetch it; `a + b` and `table.column` need both words (`entities`)."""

    id: str
    area: str
    payload: Payload
    triggers: tuple[str, ...]
    depends_on: tuple[Dependency, ...]
    validity: Validity
    provenance: Provenance
    trust: Trust
    status: Status
    supersedes: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(self.payload)
        if not AREA.match(self.area):
            raise InvalidEntry(
                f"area {self.area!r} is not a name.",
                hint="Lower-case letters, digits, '_', '.', '-'; at most 63.",
                param="area",
            )
        for day in (self.validity.first, self.validity.last):
            if not _DAY.match(day):
                raise InvalidEntry(f"{day!r} is not a day.", hint="2026-11-21.", param="validity")

    @property
    def kind(self) -> Kind:
        return kind_of(self.payload)

    def with_status(self, status: Status) -> Entry:
        return replace(self, status=status)


def said(*, area: str, payload: Payload) -> str:
    """64 bits of what it says of which area, in hexadecimal digits."""
    return _hash(area, kind_of(payload).value, asdict(payload))


def _entry_id(
    payload: Payload,
    *,
    area: str,
    triggers: tuple[str, ...],
    depends_on: tuple[Dependency, ...],
    validity: Validity,
    trust: Trust,
) -> str:
    """From what it says and everything that decides who is given it when: what another person
    enters about the same cannot change what an id stands for. `kind-` and 16 digits."""
    ground = [sorted(triggers), sorted({item.name for item in depends_on}), asdict(validity)]
    whole = _hash(said(area=area, payload=payload), *ground, trust.name)
    return f"{kind_of(payload).value}-{whole}"


def _hash(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def least_trust(source: Source, parents: Iterable[Trust]) -> Trust:
    """Trust never rises along a lineage."""
    return min([_TRUST[source], *parents])


def new_entry(
    payload: Payload,
    *,
    area: str,
    triggers: tuple[str, ...],
    depends_on: tuple[Dependency, ...],
    validity: Validity,
    provenance: Provenance,
    parents: Iterable[Trust],
    contradicts: tuple[str, ...] = (),
) -> Entry:
    """A candidate. `parents`: the trust of each entry in `provenance.parents`."""
    check(payload)
    trust = least_trust(provenance.source, parents)
    return Entry(
        id=_entry_id(
            payload,
            area=area,
            triggers=triggers,
            depends_on=depends_on,
            validity=validity,
            trust=trust,
        ),
        area=area,
        payload=payload,
        triggers=tuple(dict.fromkeys(triggers)),
        depends_on=tuple(sorted(set(depends_on), key=lambda d: (d.name, d.hash))),
        validity=validity,
        provenance=provenance,
        trust=trust,
        status=Status.CANDIDATE,
        contradicts=tuple(sorted(contradicts)),
    )
