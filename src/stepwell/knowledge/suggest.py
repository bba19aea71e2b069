"""Which candidates are most worth a person's look."""

from __future__ import annotations

from stepwell.knowledge.entry import Entry, Status
from stepwell.knowledge.parts import Parts
from stepwell.knowledge.policy import Scope
from stepwell.knowledge.release import same_claim


def suggestions(parts: Parts, limit: int) -> tuple[Entry, ...]:
    """Captured often, by whomever and in whatever words, and unlike what is released."""
    found = parts.records.with_status(Status.CANDIDATE)
    times: dict[tuple[str, ...], int] = {}
    for entry in found:
        claim = same_claim(entry)
        times[claim] = times.get(claim, 0) + parts.records.times(entry.id)

    def worth(entry: Entry) -> float:
        return times[same_claim(entry)] * _novelty(parts, entry)

    return tuple(sorted(found, key=lambda entry: (-worth(entry), entry.id))[:limit])


def _novelty(parts: Parts, entry: Entry) -> float:
    """1 where no released entry of its kind shares a word with it, towards 0 where one has all."""
    scope, text = Scope(area=entry.area), entry.payload.subject
    near = parts.index.by_words(text, scope, parts.day(), kinds=(entry.kind,), limit=1)
    asked = set(text.split())
    shared = max((len(asked & parts.index.vocabulary(name)) for name in near), default=0)
    return 1.0 - shared / (1 + len(asked))
