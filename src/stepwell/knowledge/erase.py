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
from stepwell.knowledge.context import packs_of
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.index import Index
from stepwell.knowledge.markdown import from_markdown
from stepwell.knowledge.payload import texts
from stepwell.knowledge.policy import Policy
from stepwell.knowledge.records import Records
from stepwell.knowledge.render import CountTokens
from stepwell.knowledge.session import Sessions
from stepwell.knowledge.truth import Contents, Truth


class History(enum.Enum):
    """KEEP: older releases in git still hold what is erased, and are not shown it. ERASE: they are
    written anew without it."""

    KEEP = "keep"
    ERASE = "erase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Eraser:
    """Its parts are those of one open knowledge base."""

    records: Records
    index: Index
    truth: Truth
    sessions: Sessions
    policy: Policy
    count_tokens: CountTokens

    def erase(self, entry: Entry, *, by: str, at: float, now: str, history: History) -> None:
        """The tombstone comes first: a kill after it leaves an entry that nobody is shown."""
        self.records.bury(entry.id, by=by, at=now)
        self.records.forget_failures(texts(entry.payload).values())
        self.index.remove(entry.id)
        self.sessions.forget(entry.id)
        without = self._without(entry.id)
        if history is History.ERASE:
            self.truth.rewrite(without)
        else:
            self._release_without(entry.id, without, by=by, at=at)
        self.index.set_built("" if not self.truth.names() else self.truth.names()[-1])
        self.index.scrub()
        self.records.scrub()
        render.forget()
        sql.forget()

    def derived(self, entry_id: str, entries: list[Entry]) -> tuple[str, ...]:
        """Entries that were made from it: they may repeat what it said."""
        return tuple(e.id for e in entries if entry_id in e.provenance.parents)

    def _release_without(
        self, entry_id: str, without: Callable[[Contents], Contents], *, by: str, at: float
    ) -> None:
        current = self.truth.current()
        if current and entry_id in self.truth.ids(current):
            contents = without(self.truth.contents(current))
            self.truth.point(self.truth.write(contents, by=by, at=at))

    def _without(self, entry_id: str) -> Callable[[Contents], Contents]:
        def change(old: Contents) -> Contents:
            if entry_id not in old.entries:
                return old
            left = {name: text for name, text in old.entries.items() if name != entry_id}
            entries = [from_markdown(text) for text in left.values()]
            packs = packs_of(entries, policy=self.policy, count_tokens=self.count_tokens)
            touched = {
                area: packs.get(area, packs[""]) if _holds(text, entry_id) else text
                for area, text in old.packs.items()
            }
            return replace(old, entries=left, packs=touched)

        return change


def _holds(pack: str, entry_id: str) -> bool:
    return entry_id in render.ids_in(pack)
