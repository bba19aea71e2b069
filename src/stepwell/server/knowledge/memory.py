"""What is remembered of conversations and of replies, bounded, in memory only.

A conversation that is forgotten starts over; feedback on a reply that is forgotten is refused.
Belongs to one tenant and to its thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from stepwell.server.knowledge.weave import Given

_K = TypeVar("_K")
_V = TypeVar("_V")

CONVERSATIONS = 1024
REPLIES = 4096


@dataclass(frozen=True, slots=True)
class Conversation:
    """Which one: two people, or two areas, never share what was given."""

    person: str
    area: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a reply was asked and given."""

    conversation: Conversation
    question: str
    ids: tuple[str, ...]
    release: str


class Recent(Generic[_K, _V]):
    """At most `limit` values, least recently used forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[_K, _V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: _K) -> _V | None:
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: _K, value: _V) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._limit:
            self._values.popitem(last=False)

    def drop(self, key: _K) -> None:
        self._values.pop(key, None)

    def items(self) -> Iterator[tuple[_K, _V]]:
        """A copy, oldest first."""
        return iter(list(self._values.items()))


class Memory:
    """Of one tenant."""

    def __init__(self) -> None:
        self.conversations: Recent[Conversation, Given] = Recent(CONVERSATIONS)
        self.replies: Recent[str, Reply] = Recent(REPLIES)

    def forget(self, ids: Collection[str]) -> None:
        """Conversations that were given what is erased start over: their blocks quote it."""
        for key, given in self.conversations.items():
            if not given.ids.isdisjoint(ids):
                self.conversations.drop(key)
