"""What somebody enters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypedDict

from stepwell.knowledge.entry import ALWAYS, Source, Validity
from stepwell.knowledge.payload import Payload
from stepwell.knowledge.policy import Evidence, Session


class Details(TypedDict, total=False):
    """`source`: who said it; MODEL if not given. `triggers`: names or phrases that fetch it.
    `depends_on`: `table` or `table.column`; what a template's SQL names is added, and hashes are
    those last given to `drift`. `parents`: entries it was made from. `session`: where the answer
    was given, `given`: entries that it was given besides; what its context already said is not
    captured again."""

    source: Source
    area: str
    triggers: Sequence[str]
    depends_on: Sequence[str]
    parents: Sequence[str]
    validity: Validity
    session: Session | None
    given: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A payload with `Details`. `by`: a principal's id; `evidence`: what speaks for it."""

    payload: Payload
    by: str
    evidence: Evidence
    source: Source = Source.MODEL
    area: str = ""
    triggers: Sequence[str] = ()
    depends_on: Sequence[str] = ()
    parents: Sequence[str] = ()
    validity: Validity = ALWAYS
    session: Session | None = None
    given: Collection[str] = ()
