"""Sessions: consecutive requests that extend one conversation, by id or by longest prefix.

A request without a session id belongs to the session that last used the deepest chunk it shares
with the past, provided that it repeats at least half of what that session last had; otherwise
(a shared system prompt, a fork from far up) it opens a session of its own. Bounded: the session
that was quiet for longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from stepwell.cache.chunks import NO_ROW, ChunkTable

_SAME_SHARE = 0.5


@dataclass(slots=True)
class Session:
    """One conversation. `tail`: row of its last chunk. `length`: chunks of its last chain.
    `seen`: seconds of the last arrival or reply. `running`: open requests."""

    number: int
    session_id: str | None
    tenant: int
    kind: int
    seen: float
    turns: int = 0
    tail: int = NO_ROW
    length: int = 0
    running: int = 0
    ttl: float | None = None
    timer: int = 0
    priority: int = 0
    pin: bool = False


class SessionTable:
    """Sessions by number and by (tenant, id)."""

    def __init__(self, *, max_sessions: int) -> None:
        self._max = max_sessions
        self._next = 0
        self._by_number: OrderedDict[int, Session] = OrderedDict()
        self._by_id: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def get(self, number: int) -> Session | None:
        """None once it is forgotten."""
        return self._by_number.get(number)

    def find(
        self, table: ChunkTable, *, session_id: str | None, tenant: int, rows: list[int]
    ) -> Session | None:
        """The session that a request continues. `rows`: its known prefix."""
        if session_id is not None:
            number = self._by_id.get((tenant, session_id))
            return None if number is None else self._by_number[number]
        if not rows:
            return None
        session = self.get(table.session[rows[-1]])
        if session is None or session.tenant != tenant or session.session_id is not None:
            return None
        return session if len(rows) >= _SAME_SHARE * session.length else None

    def open(self, *, session_id: str | None, tenant: int, kind: int, now: float) -> Session:
        """A new session."""
        session = Session(self._next, session_id, tenant, kind, now)
        self._next += 1
        self._by_number[session.number] = session
        if session_id is not None:
            self._by_id[(tenant, session_id)] = session.number
        while len(self._by_number) > self._max:
            self._forget_quietest()
        return session

    def touch(self, session: Session, now: float) -> None:
        """It is the most recent one now (unless it has been forgotten meanwhile)."""
        session.seen = now
        if session.number in self._by_number:
            self._by_number.move_to_end(session.number)

    def _forget_quietest(self) -> None:
        _, oldest = self._by_number.popitem(last=False)
        if oldest.session_id is not None:
            self._by_id.pop((oldest.tenant, oldest.session_id), None)
