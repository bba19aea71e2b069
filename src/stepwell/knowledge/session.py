"""What a session was shown: text that only grows, so that what was computed of it stays valid.

Kept in memory for the sessions that were used last. It starts over when the release changes, when
something that was shown may no longer be, or when it outgrows its budget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from stepwell.knowledge.policy import Session


@dataclass(slots=True)
class Shown:
    """`text` is only appended to. `ids`: entries in it; `offered`: all that the session's requests
    were given in any part, of which nothing is captured again."""

    release: str
    text: str = ""
    ids: list[str] = field(default_factory=list)
    offered: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def start_over(self, release: str) -> None:
        self.release, self.text, self.ids = release, "".join(self.notes), []


class Sessions:
    """At most `limit`, least recently used forgotten first."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._shown: OrderedDict[Session, Shown] = OrderedDict()

    def get(self, session: Session, release: str) -> Shown:
        """A session's own, made when it is new. One id of two scopes is two sessions."""
        shown = self._shown.setdefault(session, Shown(release))
        self._shown.move_to_end(session)
        while len(self._shown) > self._limit:
            self._shown.popitem(last=False)
        return shown

    def note(self, session: Session, release: str, text: str) -> None:
        """Append a quoted line; it survives starting over."""
        shown = self.get(session, release)
        line = "".join(f"| {part}\n" for part in text.splitlines() if part.strip())
        shown.notes.append(line)
        shown.text += line

    def offered(self, session: Session) -> Collection[str]:
        shown = self._shown.get(session)
        return shown.offered if shown else ()

    def forget(self, entry_id: str) -> None:
        """Sessions that were shown an erased entry start from nothing, their notes too."""
        for session, shown in list(self._shown.items()):
            if entry_id in shown.offered:
                del self._shown[session]

    def refresh(
        self, shown: Shown, release: str, *, still: Callable[[str], bool], limit: int, size: int
    ) -> None:
        """Start over where the text may not be extended. `size`: tokens that it has, of `limit`."""
        if shown.release != release or size > limit or not all(map(still, shown.ids)):
            shown.start_over(release)
