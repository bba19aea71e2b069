"""All of a server's knowledge: the tenants' books, what requests are given, the paths below
/v1/knowledge.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.base.config import KnowledgeConfig
from stepwell.base.errors import ConfigError
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.embed import Embedder, sentence_embedder
from stepwell.knowledge.policy import Capture, Policy, Releaser
from stepwell.knowledge.render import CountTokens
from stepwell.server.auth import Caller
from stepwell.server.knowledge.books import Book, Books
from stepwell.server.knowledge.counts import KnowledgeCounts
from stepwell.server.knowledge.giver import BookGiver
from stepwell.server.knowledge.ports import Keeper
from stepwell.server.knowledge.tokens import TokenCounter
from stepwell.server.ports import TokenizerLike


def policy_of(settings: KnowledgeConfig) -> Policy:
    """The rules of every tenant of a server."""
    return Policy(
        capture=Capture(settings.capture),
        confirmers=settings.confirmers,
        releaser=Releaser(settings.releaser),
        pack_tokens=settings.pack_tokens,
    )


def open_base(
    tenant: str, *, settings: KnowledgeConfig, embedder: Embedder | None, count_tokens: CountTokens
) -> Knowledge:
    """One tenant's base below `knowledge.folder`. Raises KnowledgeError."""
    return Knowledge.open(
        Path(settings.folder).expanduser(),
        tenant=tenant,
        policy=policy_of(settings),
        embedder=embedder,
        count_tokens=count_tokens,
    )


def make_embedder(settings: KnowledgeConfig) -> Embedder | None:
    """None where none is set. Tenants' threads take turns with it. Raises ConfigError."""
    if not settings.embedder:
        return None
    found = sentence_embedder(settings.embedder)
    if found is None:
        raise ConfigError(
            "knowledge.embedder needs sentence-transformers, which is not installed.",
            hint="pip install sentence-transformers, or leave knowledge.embedder empty.",
            param="knowledge.embedder",
        )
    lock = threading.Lock()

    def embed(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        with lock:
            return found(texts)

    return embed


class KnowledgeService:
    """Belongs to the event loop; what it does to a base it does on the tenant's thread."""

    def __init__(
        self, settings: KnowledgeConfig, *, tokenizer: TokenizerLike, keeper: Keeper
    ) -> None:
        self.settings = settings
        self.counts = KnowledgeCounts()
        self.count_tokens = TokenCounter(tokenizer)
        self.keeper = keeper
        self.books = Books(
            Path(settings.folder).expanduser(),
            open_base=partial(
                open_base,
                settings=settings,
                embedder=make_embedder(settings),
                count_tokens=self.count_tokens,
            ),
        )

    def book(self, caller: Caller) -> Book:
        """Of the caller's tenant."""
        return self.books.of(caller.tenant)

    def giver(self, book: Book, caller: Caller) -> BookGiver:
        """For one request of the caller, on the book's thread."""
        return BookGiver(
            book=book,
            caller=caller,
            settings=self.settings,
            count_tokens=self.count_tokens,
            counts=self.counts,
            keeper=self.keeper,
        )

    async def close(self) -> None:
        """At shutdown, while the engine still runs."""
        await self.keeper.close()
        await self.books.close()
