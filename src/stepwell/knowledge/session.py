"""What a session was shown and noted: text that only grows, so that what was computed of it stays
valid.

Kept in memory for the sessions that were used last. It starts over when the release changes, when
something that was shown may no longer be, when a note is taken away, or when it outgrows its
budget.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from stepwell.knowledge.errors import GateClosed
from stepwell.knowledge.note import MOST_CHARACTERS, MOST_NOTES, Note
from stepwell.knowledge.policy import Session

MOST_OWED = 65_536
"""Notes that are gone, of which KV may be left; beyond it the oldest is forgotten, KV or not."""


@dataclass(slots=True)
class Shown:
    """`text` is only appended to. `ids`: entries in it; `offered`: all that the session's requests
    were given in any part, of which nothing is captured again."""

    release: str
    text: str = ""
    ids: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)

    def start_over(self, release: str) -> None:
        self.release, self.ids = release, []
        self.text = "".join(note.render() for note in self.notes)

    def drop(self, ids: Collection[str]) -> tuple[str, ...]:
        """Take notes away; those that were there."""
        gone = tuple(note.id for note in self.notes if note.id in ids)
        if gone:
            self.notes = [note for note in self.notes if note.id not in gone]
            self.start_over(self.release)
        return gone


class Sessions:
    """At most `limit`. Whoever has the most loses the one used longest ago: nobody can push out
    what others have."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._shown: OrderedDict[Session, Shown] = OrderedDict()
        self._owed: OrderedDict[str, Session] = OrderedDict()

    def get(self, session: Session, release: str) -> Shown:
        """A session's own, made when it is new. One id of two scopes is two sessions."""
        shown = self._shown.setdefault(session, Shown(release))
        self._shown.move_to_end(session)
        if len(self._shown) > self._limit:
            self._forget_one()
        return shown

    def _forget_one(self) -> None:
        by_user = Counter(session.scope.user for session in self._shown)
        most = max(by_user.values())
        session = next(s for s in self._shown if by_user[s.scope.user] == most)
        gone = self._shown.pop(session)
        self._owe(session, [note.id for note in gone.notes])

    def _owe(self, session: Session, ids: Collection[str]) -> None:
        self._owed.update(dict.fromkeys(ids, session))
        while len(self._owed) > MOST_OWED:
            self._owed.popitem(last=False)

    def owed(self) -> Mapping[str, Session]:
        """Notes that are gone, by whatever way, until `settle`: KV of them may be left. A copy,
        oldest first."""
        return dict(self._owed)

    def settle(self, ids: Collection[str]) -> None:
        """No KV of these is left."""
        for name in ids:
            self._owed.pop(name, None)

    def note(self, session: Session, release: str, note: Note) -> None:
        """Append a note; it survives starting over. Raises GateClosed when there is no room."""
        held = self.notes(session)
        size = sum(len(item.render()) for item in (*held, note))
        if len(held) >= MOST_NOTES or size > MOST_CHARACTERS:
            raise GateClosed(
                f"the session has {len(held)} notes and no room for this one.",
                hint=f"At most {MOST_NOTES}, {MOST_CHARACTERS} characters; take some away.",
            )
        shown = self.get(session, release)
        shown.notes.append(note)
        shown.text += note.render()

    def notes(self, session: Session) -> tuple[Note, ...]:
        """Oldest first."""
        shown = self._shown.get(session)
        if shown is None:
            return ()
        self._shown.move_to_end(session)
        return tuple(shown.notes)

    def drop_notes(self, session: Session, ids: Collection[str]) -> tuple[str, ...]:
        """Take notes away; those that were there."""
        shown = self._shown.get(session)
        gone = shown.drop(ids) if shown else ()
        self._owe(session, gone)
        return gone

    def offered(self, session: Session) -> Collection[str]:
        shown = self._shown.get(session)
        return shown.offered if shown else ()

    def forget(self, entry_id: str, texts: Collection[str]) -> tuple[str, ...]:
        """After erasing an entry that said `texts`: sessions that were shown it start from nothing,
        and notes that repeat it go. Returns the notes that are gone."""
        gone: list[str] = []
        for session, shown in list(self._shown.items()):
            if entry_id in shown.offered:
                lost = tuple(note.id for note in shown.notes)
                del self._shown[session]
            else:
                lost = shown.drop([note.id for note in shown.notes if note.quotes(texts)])
            self._owe(session, lost)
            gone += lost
        return tuple(gone)

    def refresh(
        self, shown: Shown, release: str, *, still: Callable[[str], bool], limit: int, size: int
    ) -> None:
        """Start over where the text may not be extended. `size`: tokens that it has, of `limit`."""
        if shown.release != release or size > limit or not all(map(still, shown.ids)):
            shown.start_over(release)
