"""Requests below /v1/knowledge: role, body, the verb on the tenant's thread, the reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from stepwell.base.errors import InvalidParameter, RequestError, StepwellError
from stepwell.server.async_engine import AsyncEngine
from stepwell.server.auth import Caller
from stepwell.server.errors import RequestTimeout
from stepwell.server.http import Exchange
from stepwell.server.knowledge import notes, switch
from stepwell.server.knowledge.desk import Answer, Ask, Desk
from stepwell.server.knowledge.reader import ModelReader
from stepwell.server.knowledge.routes import ROOT, ROUTES, Route, find
from stepwell.server.knowledge.service import KnowledgeService

MOST_BODY = 1 << 20
"""Bytes of a body here."""
PATIENCE = 30.0
"""Seconds that a call waits for its turn at the tenant's base, and not longer than a request may
take."""
_NDJSON = ((b"content-type", b"application/x-ndjson"),)


class KnowledgePaths:
    """Answers the paths of one service. `timeout`: seconds for a body to arrive; 0: none."""

    def __init__(
        self,
        service: KnowledgeService,
        *,
        engine: AsyncEngine,
        timeout: float,
        max_body: int,
    ) -> None:
        self._service = service
        self._patience = min(timeout or PATIENCE, PATIENCE)
        self._switch = switch.Switch(reader=ModelReader(engine), patience=self._patience)
        self._timeout = timeout or None
        self._max_body = min(max_body, MOST_BODY)

    patterns = frozenset(f"{ROOT}/{route.path}" for route in ROUTES)
    """All that `route` may return."""

    def route(self, exchange: Exchange) -> str:
        """The pattern of a path, for metrics. Raises UnknownRoute, MethodNotAllowed."""
        route, _ = find(exchange.method, _below(exchange.path))
        return f"{ROOT}/{route.path}"

    async def __call__(self, exchange: Exchange, caller: Caller) -> None:
        """Reply. Raises StepwellError for the app to write."""
        route, names = find(exchange.method, _below(exchange.path))
        try:
            route.needs.check(caller)
            ask = Ask(
                names=names,
                query=_query(exchange),
                body=await self._body(exchange) if route.method == "POST" else {},
            )
            answer = await self._answer(route, ask, caller)
        except StepwellError as error:
            self._service.counts.failed(error.code)
            raise
        await _reply(exchange, answer)

    async def _answer(self, route: Route, ask: Ask, caller: Caller) -> Answer:
        service = self._service
        book = service.book(caller)
        desk = Desk(book=book, caller=caller, settings=service.settings, counts=service.counts)
        if route.verb is switch.release_here:
            return await self._switch.release(desk, ask, keeper=service.keeper)
        if route.verb is switch.rollback_here:
            return await self._switch.rollback(desk, ask, keeper=service.keeper)
        counter = service.count_tokens
        if route.verb is switch.erase_here:
            return await self._switch.erase(desk, ask, keeper=service.keeper, counter=counter)
        if route.verb is notes.drop_notes_here:
            return await self._switch.drop_notes(desk, ask, keeper=service.keeper, counter=counter)
        return await book.run(lambda _: _verb(route, desk, ask), seconds=self._patience)

    async def _body(self, exchange: Exchange) -> dict[str, Any]:
        """An object; nothing at all counts as an empty one."""
        try:
            async with asyncio.timeout(self._timeout):
                data = await exchange.body(limit=self._max_body)
        except TimeoutError as error:
            raise RequestTimeout("the body did not arrive in time.") from error
        if not data:
            return {}
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is not valid JSON: {error}.") from error
        if not isinstance(value, dict):
            raise RequestError("the body must be a JSON object.")
        return value


def _verb(route: Route, desk: Desk, ask: Ask) -> Answer:
    answer = route.verb(desk, ask)
    desk.counts.waiting(desk.book.tenant, desk.base.waiting())
    return answer


def _below(path: str) -> str:
    return path.removeprefix(ROOT).strip("/")


def _query(exchange: Exchange) -> Mapping[str, str]:
    """Each name once."""
    pairs = parse_qsl(exchange.query, keep_blank_values=True)
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidParameter("a name stands twice in the query.", hint="Give each once.")
    return found


async def _reply(exchange: Exchange, answer: Answer) -> None:
    if answer.lines is None:
        await exchange.reply_json(answer.value, status=answer.status)
        return
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in answer.lines)
    await exchange.reply(text.encode(), status=answer.status, content_headers=_NDJSON)
