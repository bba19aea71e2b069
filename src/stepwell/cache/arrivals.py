"""A request joins its session, or opens one: class, limits and wishes are settled here."""

from __future__ import annotations

from stepwell.base.hierarchy import WorkloadClass
from stepwell.cache.chunks import ChunkTable
from stepwell.cache.plan import ChainRequest
from stepwell.cache.sessions import Session, SessionTable
from stepwell.cache.settings import KINDS, HierarchySettings
from stepwell.cache.tenants import Tenants
from stepwell.cache.think import ThinkTimes


class Arrivals:
    """Owned by `Hierarchy`; the sessions and think times are shared with `Lifetimes`."""

    def __init__(
        self,
        table: ChunkTable,
        sessions: SessionTable,
        tenants: Tenants,
        think: ThinkTimes,
        settings: HierarchySettings,
    ) -> None:
        self._table = table
        self._sessions = sessions
        self._tenants = tenants
        self._think = think
        self._settings = settings

    def enter(self, request: ChainRequest, rows: list[int], now: float) -> Session:
        """The session that a request belongs to; its return is counted. `rows`: known prefix."""
        tenant, name = self._tenants.number(request.tenant), request.session_id
        session = self._sessions.find(self._table, session_id=name, tenant=tenant, rows=rows)
        if session is None:
            session = self._sessions.open(session_id=name, tenant=tenant, kind=0, now=now)
        else:
            self._think.returned(session, now - session.seen)
        session.kind = self._kind(request, session)
        session.turns += 1
        session.running += 1
        session.pin = session.pin or request.pin
        kind = KINDS[session.kind]
        session.ttl = request.ttl if request.ttl is not None else self._settings.ttl.get(kind)
        session.priority = max(-128, min(127, request.priority))
        self._sessions.touch(session, now)
        return session

    def _kind(self, request: ChainRequest, session: Session) -> int:
        """By the request (which has its API key's class if it names none), else by its looks."""
        if request.workload is not None:
            return KINDS.index(request.workload)
        long = request.tokens >= self._settings.document_tokens and not session.turns
        return KINDS.index(WorkloadClass.DOCUMENT if long else WorkloadClass.CHAT)
