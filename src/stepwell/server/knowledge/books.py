"""The tenants' knowledge bases: each opened when it is first used, on a thread of its own.

One thread a tenant is its lock: what is done to a base is done in turn, no tenant waits for
another, and nothing of it runs on the event loop. There are as many as tenants with a key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from stepwell.base.errors import EngineStopped
from stepwell.knowledge.base import Knowledge
from stepwell.server.auth import LOCAL
from stepwell.server.errors import KnowledgeBusy
from stepwell.server.knowledge.casefile import CaseFile
from stepwell.server.knowledge.memory import Memory

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Book:
    """A tenant's base with what is remembered beside it. `base` and `memory` only on its thread.

    `tenant`: as requests have it, empty on a server without keys.
    """

    def __init__(self, tenant: str, *, folder: Path, open_base: Callable[[str], Knowledge]) -> None:
        """`folder`: of all tenants."""
        self.tenant = tenant
        self.name = tenant or LOCAL
        self.cases = CaseFile(folder / self.name / "cases.json")
        self.memory = Memory()
        self._open_base = open_base
        self._base: Knowledge | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stepwell-knowledge")

    @property
    def base(self) -> Knowledge:
        """Opened if it is not. Raises KnowledgeError, anew at each try."""
        if self._base is None:
            self._base = self._open_base(self.name)
        return self._base

    async def run(self, work: Callable[[Book], _T], *, seconds: float | None = None) -> _T:
        """What `work` returns or raises, after what was asked for before. Raises KnowledgeBusy
        where it has not begun after `seconds`: it is then dropped. What has begun is not left."""
        try:
            future = self._thread.submit(work, self)
        except RuntimeError:
            raise EngineStopped("the server is shutting down.", hint="Try another one.") from None
        waiting = asyncio.wrap_future(future)
        try:
            done, _ = await asyncio.wait([waiting], timeout=seconds)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        if not done and future.cancel():
            raise KnowledgeBusy(
                f"the tenant's knowledge was busy for {seconds:g} s; nothing was done.",
                hint="Try again.",
            )
        return await waiting

    def close(self) -> None:
        """After what is queued. Waits."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=True)

    def close_here(self) -> None:
        """Where the caller's thread is the only one that used it."""
        self._close()
        self._thread.shutdown(wait=False)

    def _close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None


class Books:
    """Of all tenants. Belongs to the event loop."""

    def __init__(self, folder: Path, *, open_base: Callable[[str], Knowledge]) -> None:
        self._folder = folder
        self._open_base = open_base
        self._books: dict[str, Book] = {}

    def of(self, tenant: str) -> Book:
        """A tenant's own."""
        if tenant not in self._books:
            self._books[tenant] = Book(tenant, folder=self._folder, open_base=self._open_base)
        return self._books[tenant]

    def used(self) -> list[Book]:
        """Those that were asked for."""
        return list(self._books.values())

    async def close(self) -> None:
        """Close all, each after what it does now."""
        closing = [asyncio.to_thread(book.close) for book in self._books.values()]
        done = await asyncio.gather(*closing, return_exceptions=True)
        for error in filter(None, done):
            logger.error("a knowledge base did not close: %r", error)
