"""The seams: between a request and its tenant's knowledge, and between texts and their KV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stepwell.base.prefix import Mark
from stepwell.base.request import GenerationRequest
from stepwell.server.knowledge.told import Told
from stepwell.server.knowledge.wish import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Gave:
    """What a request was given. `messages`: for the template. `pack`: the release's, as this caller
    may see it."""

    messages: list[dict[str, Any]]
    told: Told
    area: str
    release: str
    pack: str
    ids: tuple[str, ...]


class Giver(Protocol):
    """Gives one caller's request what its tenant's base has for it."""

    def chat(self, messages: Sequence[Mapping[str, Any]], wish: Wish, *, reply_id: str) -> Gave:
        """The messages, with what they are given in front of a user's words."""

    def prompt(self, text: str, wish: Wish, *, reply_id: str) -> Gave:
        """One message, whose content is the prompt."""

    def sent(self, gave: Gave, request: GenerationRequest) -> tuple[Mark, ...]:
        """The request that came of it, before it is queued, and what it must be marked with."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A request that was given knowledge. `messages`: as the template got them, blocks included;
    empty for a plain prompt. `pack`: its pack's text. `ids`: entries and notes that its prompt
    holds."""

    tenant: str
    area: str
    release: str
    pack: str
    ids: tuple[str, ...]
    messages: Sequence[Mapping[str, Any]]
    request: GenerationRequest


class Keeper(Protocol):
    """Keeps the KV of packs, and drops the KV of what is erased. `tenant`: as requests have it."""

    def start(self) -> None:
        """On the event loop, before the first request."""

    def saw(self, served: Served) -> tuple[Mark, ...]:
        """Called for each request before it is queued, on a tenant's thread; must be quick. Returns
        the marks that the request must be queued with (`GenerationRequest.marks`): what its prompt
        holds from which token on, so that an erasure finds it."""
        ...

    async def warm(self, tenant: str, packs: Mapping[str, str]) -> None:
        """Compute and pin the packs of a release (area -> text) that is about to be current.
        Requests go on with the old ones until this returns or is cancelled."""

    def switched(self, tenant: str, release: str, packs: Mapping[str, str]) -> None:
        """The pointer moved: packs that are not among these are no longer pinned."""

    async def erased(self, tenant: str, labels: Sequence[str]) -> int:
        """Drop all KV that holds one of these entries and notes or was computed after it, in every
        tier. Returns how many chunks and blocks were dropped."""

    async def close(self) -> None:
        """At shutdown, before the engine stops."""


class NoKeeper:
    """Keeps nothing: packs are found in the prefix cache as long as they are there."""

    def start(self) -> None:
        return None

    def saw(self, served: Served) -> tuple[Mark, ...]:
        return ()

    async def warm(self, tenant: str, packs: Mapping[str, str]) -> None:
        return None

    def switched(self, tenant: str, release: str, packs: Mapping[str, str]) -> None:
        return None

    async def erased(self, tenant: str, labels: Sequence[str]) -> int:
        return 0

    async def close(self) -> None:
        return None
