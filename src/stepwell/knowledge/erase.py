"""Taking an entry out of everything that is written.

Rows, FTS pages, vectors and the current release always; with `History.ERASE` every release that
ever held it, whose repository is written anew. What stays is a tombstone: its id, which is a hash
of what it said, and events that name the id. Copies that others made (backups, clones, exports)
are theirs to erase.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from stepwell.knowledge import render, sql
from stepwell.knowledge.contents import Contents
from stepwell.knowledge.context import packs_of
from stepwell.knowledge.entry import Entry, Status, said
from stepwell.knowledge.markdown import from_markdown
from stepwell.knowledge.parts import Parts
from stepwell.knowledge.payload import texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What erasing an entry came to. `derived`: entries that were made from it, which are left.
    `notes`: ids of notes that are gone with it."""

    derived: tuple[str, ...]
    notes: tuple[str, ...]


class History(enum.Enum):
    """KEEP: older releases in git still hold what is erased, and are not shown it. ERASE: they are
    written anew without it."""

    KEEP = "keep"
    ERASE = "erase"


class Eraser:
    """Of one open knowledge base."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def erase(self, entry: Entry, *, by: str, history: History) -> Erased:
        """The tombstone comes first: a kill after it leaves an entry that nobody is shown."""
        parts, at, now = self._parts, self._parts.clock(), self._parts.now()
        parts.records.bury(entry.id, said(area=entry.area, payload=entry.payload), by=by, at=now)
        parts.records.forget_failures(texts(entry.payload).values())
        parts.index.remove(entry.id)
        notes = parts.sessions.forget(entry.id, texts(entry.payload).values())
        without = self._without(entry.id)
        if history is History.ERASE:
            parts.truth.rewrite(without)
        else:
            self._release_without(entry.id, without, by=by, at=at)
        parts.index.set_built("" if not parts.truth.names() else parts.truth.names()[-1])
        parts.index.scrub()
        parts.records.scrub()
        render.forget()
        sql.forget()
        parts.log("erased", entry.id, by=by)
        return Erased(derived=self._derived(entry.id), notes=notes)

    def _derived(self, entry_id: str) -> tuple[str, ...]:
        """Entries that were made from it: they may repeat what it said."""
        index, records = self._parts.index, self._parts.records
        known = [index.get(name) for name in sorted(index.ids())]
        for status in (Status.CANDIDATE, Status.RETIRED):
            known += records.with_status(status)
        return tuple(entry.id for entry in known if entry_id in entry.provenance.parents)

    def _release_without(
        self, entry_id: str, without: Callable[[Contents], Contents], *, by: str, at: float
    ) -> None:
        truth = self._parts.truth
        current = truth.current()
        if current and entry_id in truth.ids(current):
            truth.point(truth.write(without(truth.contents(current)), by=by, at=at))

    def _without(self, entry_id: str) -> Callable[[Contents], Contents]:
        def change(old: Contents) -> Contents:
            if entry_id not in old.entries:
                return old
            left = {name: text for name, text in old.entries.items() if name != entry_id}
            entries = [from_markdown(text) for text in left.values()]
            parts = self._parts
            packs = packs_of(entries, policy=parts.policy, count_tokens=parts.count_tokens)
            touched = {
                area: packs.get(area, packs[""]) if _holds(text, entry_id) else text
                for area, text in old.packs.items()
            }
            return replace(old, entries=left, packs=touched)

        return change


def _holds(pack: str, entry_id: str) -> bool:
    return entry_id in render.ids_in(pack)
