"""Entries that would come up for everything: a trigger that most questions name, a text that holds
the words of most. Compared with titles of what is released; hub vectors are not looked for."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.knowledge.entities import parts
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.index import Index, title_of
from stepwell.knowledge.payload import Kind, texts
from stepwell.knowledge.words import content_words, words

_LEAST_TITLES, _MOST_TITLES = 20, 500
# Shares of the titles; chosen so that a table's own name passes, not tuned.
_BROAD, _HUB = 0.8, 0.5


def hub_findings(entry: Entry, index: Index) -> tuple[str, ...]:
    """`broad_trigger`: one that more than 80 % of the titles name. `hub`: all words of more than
    half of the titles of other subjects stand in it (a table's columns may)."""
    titles = _titles(entry, index)
    if len(titles) < _LEAST_TITLES:
        return ()
    return tuple(sorted(set(_codes(entry, titles))))


def _titles(entry: Entry, index: Index) -> list[str]:
    found = []
    for name in sorted(index.live()):
        other = index.get(name)
        if other.area in ("", entry.area) and other.payload.subject != entry.payload.subject:
            found.append(title_of(other))
        if len(found) == _MOST_TITLES:
            break
    return found


def _codes(entry: Entry, titles: list[str]) -> Iterator[str]:
    said = [f" {' '.join(words(title))} " for title in titles]
    for trigger in entry.triggers:
        needed = parts(trigger)
        named = sum(all(f" {part} " in title for part in needed) for title in said)
        if needed and named > _BROAD * len(titles):
            yield "broad_trigger"
    if entry.kind is not Kind.SCHEMA:
        own = set(words(" ".join(texts(entry.payload).values())))
        held = sum(own.issuperset(content_words(title)) for title in titles)
        if held > _HUB * len(titles):
            yield "hub"
