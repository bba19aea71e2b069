"""What happens to idle sessions by time alone: expiry, and promotion before an expected return.

One heap of timers, at most one of each kind a session; a tick looks at the due ones only, so its
cost does not depend on how many sessions are idle. A timer that comes too early (the session was
used meanwhile) is set again and not searched for when the session is touched.
"""

from __future__ import annotations

import heapq

from stepwell.cache.placement import Placement, chain_of
from stepwell.cache.sessions import Session, SessionTable
from stepwell.cache.store import ChunkStore
from stepwell.cache.think import ThinkTimes

_EXPIRE, _PROMOTE = 0, 1
_HAS_TIMER = (1, 2)


class Lifetimes:
    """Owned by `Hierarchy`."""

    def __init__(
        self, store: ChunkStore, sessions: SessionTable, placement: Placement, think: ThinkTimes,
        *, probability: float,
    ) -> None:  # fmt: skip
        self._store = store
        self._sessions = sessions
        self._placement = placement
        self._think = think
        self._probability = probability
        self._heap: list[tuple[float, int, int]] = []
        self.expired = 0
        self.promotions = 0

    def idle(self, session: Session, now: float) -> None:
        """A session's reply is over."""
        if session.ttl is not None:
            self._set(session, _EXPIRE, now + session.ttl)
        if len(self._store.books) > 1:
            wait = self._think.quantile(session, 0.1)
            if wait is not None:
                self._set(session, _PROMOTE, now + wait)

    def tick(self, now: float) -> None:
        """Carry out what is due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, number, kind = heapq.heappop(heap)
            session = self._sessions.get(number)
            if session is None:
                continue
            session.timer &= ~_HAS_TIMER[kind]
            if kind == _EXPIRE:
                self._expire(session, now)
            else:
                self._promote(session, now)

    def _set(self, session: Session, kind: int, when: float) -> None:
        if not session.timer & _HAS_TIMER[kind]:
            session.timer |= _HAS_TIMER[kind]
            heapq.heappush(self._heap, (when, session.number, kind))

    def _expire(self, session: Session, now: float) -> None:
        if session.ttl is None:
            return
        if session.running or session.seen + session.ttl > now:
            self._set(session, _EXPIRE, max(now, session.seen) + session.ttl)
            return
        store = self._store
        for row in reversed(chain_of(store, session.tail, session.number)):
            for tier in store.books:
                if store.table.evictable(row, tier):
                    store.evict(row, tier, now)
                    self.expired += 1

    def _promote(self, session: Session, now: float) -> None:
        """Bring an idle session's chain up if it is likely to return soon."""
        if session.running:
            return
        wait = self._think.quantile(session, 0.1)
        if wait is None:
            return
        if session.seen + wait > now:
            self._set(session, _PROMOTE, session.seen + wait)
            return
        if self._think.return_probability(session, now - session.seen) >= self._probability:
            rows = chain_of(self._store, session.tail, session.number)
            self.promotions += self._placement.promote(rows, now=now)
