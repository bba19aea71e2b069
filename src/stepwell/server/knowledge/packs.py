"""Keeps the KV of release packs: computed ahead of a release, pinned, let go of, erased.

A pack is computed for the heads (system messages, as tokens) that came lately, the busiest first,
by requests of the lowest priority that produce nothing. Then its prefix is pinned. `warm` returns
when all are there, so that the caller can go on with the old pack until then. The packs of the
release before stay pinned too, with little worth: going back is warm.

What is kept where room is short is decided by worth: requests x seconds of prefill, by byte.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from stepwell.base.errors import StepwellError
from stepwell.base.hierarchy import WorkloadClass
from stepwell.base.prefix import Erased, Erasure, Mark, PinState, PrefixPin
from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.server.knowledge.heads import PackTokens, Place
from stepwell.server.knowledge.ports import Served
from stepwell.server.ports import TokenizerLike

logger = logging.getLogger(__name__)

_HEADS = 4  # of an area that a new pack is computed for
_KEPT_HEADS = 64  # of a tenant
_HALF_LIFE = 1800.0  # seconds after which a request counts half
_AGAIN_SECONDS = 30.0  # between two looks at one pin
_OLD_WORTH = 0.01  # of the release before, against the current one's
_LOWEST = 1 << 20  # priority: later than any client's
_ERASE_SECONDS = 30.0


class PackEngine(Protocol):
    """What the keeper asks of the engine."""

    async def prefill(self, request: GenerationRequest) -> None:
        """Run a request that nobody reads. Raises StepwellError."""

    async def pin(self, pin: PrefixPin) -> PinState: ...
    async def unpin(self, name: str) -> None: ...
    async def forget(self, erasure: Erasure) -> Erased: ...
    async def erasing(self) -> int:
        """Erasures that some tier has not carried out yet."""


@dataclass(slots=True)
class _Head:
    """One beginning of prompts: how often it came, fading, and when it did last."""

    tokens: tuple[int, ...]
    heat: float
    seen: float

    def heat_at(self, now: float) -> float:
        return self.heat * 0.5 ** ((now - self.seen) / _HALF_LIFE)


@dataclass(slots=True)
class _Pinned:
    """A pin: whose, of which text and head, and when it was looked at last."""

    tenant: str
    pack: str
    head: tuple[str, tuple[int, ...]]
    tokens: tuple[int, ...]
    looked: float
    seconds: float = 0.0


class PackKeeper:
    """A `Keeper`. `saw` comes from any thread, the rest from the event loop."""

    def __init__(
        self,
        engine: PackEngine,
        tokenizer: TokenizerLike,
        *,
        pins: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`pins`: whether packs are computed ahead and pinned; erasing works without."""
        self._engine = engine
        self._tokens = PackTokens(tokenizer)
        self._pins = pins
        self._clock = clock
        self._lock = threading.Lock()
        self._heads: dict[str, OrderedDict[tuple[str, tuple[int, ...]], _Head]] = {}
        self._pinned: dict[str, _Pinned] = {}
        self._current: dict[str, list[frozenset[str]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """See `Keeper`."""
        self._loop = asyncio.get_running_loop()

    # --- requests -----------------------------------------------------------------------------

    def saw(self, served: Served) -> tuple[Mark, ...]:
        """See `Keeper`. What cannot be located is taken to be anywhere in the prompt."""
        prompt, now = served.request.prompt_token_ids, self._clock()
        with self._lock:
            place = self._tokens.place(prompt, served.pack)
            if place is not None:
                self._count(served, place, now)
        packed = frozenset(_ids_in(served.pack))
        inside = tuple(name for name in served.ids if name in packed)
        behind = tuple(name for name in served.ids if name not in packed)
        if place is None:
            return (Mark(labels=served.ids, start=0),) if served.ids else ()
        marks = (
            Mark(labels=inside, start=place.start),
            Mark(labels=behind, start=place.end),
        )
        return tuple(mark for mark in marks if mark.labels)

    def _count(self, served: Served, place: Place, now: float) -> None:
        """One more request with this head; look after its pin if that was long ago."""
        heads = self._heads.setdefault(served.tenant, OrderedDict())
        key = (served.area, place.head)
        head = heads.setdefault(key, _Head(place.head, 0.0, now))
        head.heat, head.seen = head.heat_at(now) + 1.0, now
        heads.move_to_end(key)
        while len(heads) > _KEPT_HEADS:
            heads.popitem(last=False)
        if self._loop is None or not self._pins or head.heat < 1.5:
            return
        tokens = served.request.prompt_token_ids[: place.end]
        name = _name(served.tenant, tokens)
        held = self._pinned.get(name)
        if held is None or now - held.looked >= _AGAIN_SECONDS:
            pinned = held or _Pinned(served.tenant, served.pack, key, tokens, now)
            pinned.looked = now
            self._loop.call_soon_threadsafe(self._spawn, self._pin(name, pinned))

    # --- releases -----------------------------------------------------------------------------

    async def warm(self, tenant: str, packs: Mapping[str, str]) -> None:
        """See `Keeper`. Where no request came yet there is nothing to compute it for."""
        if not self._pins:
            return
        for name, pinned in self._wanted(tenant, packs):
            began = self._clock()
            try:
                await self._engine.prefill(self._request(name, pinned))
                pinned.seconds = self._clock() - began
                await self._pin(name, pinned)
            except StepwellError as error:
                logger.warning("a pack was not computed ahead: %s", error)

    def switched(self, tenant: str, release: str, packs: Mapping[str, str]) -> None:
        """See `Keeper`."""
        with self._lock:
            before = self._current.get(tenant, [])[:1]
            self._current[tenant] = kept = [frozenset(packs.values()), *before]
            over = [
                name
                for name, pinned in self._pinned.items()
                if pinned.tenant == tenant and not any(pinned.pack in texts for texts in kept)
            ]
            for name in over:
                del self._pinned[name]
            again = [item for item in self._pinned.items() if item[1].tenant == tenant]
        for name in over:
            self._spawn(self._engine.unpin(name))
        for name, pinned in again:
            self._spawn(self._pin(name, pinned))

    async def erased(self, tenant: str, labels: Sequence[str]) -> int:
        """See `Keeper`. Waits for the tiers, but not for ever: what fails is tried again by the
        engine."""
        gone = frozenset(labels)
        with self._lock:
            self._tokens.forget()
            over = [
                name
                for name, pinned in self._pinned.items()
                if pinned.tenant == tenant and not gone.isdisjoint(_ids_in(pinned.pack))
            ]
            for name in over:
                del self._pinned[name]
            self._current[tenant] = [
                frozenset(text for text in texts if gone.isdisjoint(_ids_in(text)))
                for texts in self._current.get(tenant, [])
            ]
        for name in over:
            await self._engine.unpin(name)
        done = await self._engine.forget(Erasure(tenant=tenant, labels=tuple(labels)))
        deadline = self._clock() + _ERASE_SECONDS
        while await self._engine.erasing() and self._clock() < deadline:
            await asyncio.sleep(0.05)
        return done.blocks + done.chunks

    async def close(self) -> None:
        """See `Keeper`."""
        self._loop = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def pinned(self) -> int:
        """Prefixes that are pinned now."""
        return len(self._pinned)

    # --- inside -------------------------------------------------------------------------------

    def _wanted(self, tenant: str, packs: Mapping[str, str]) -> list[tuple[str, _Pinned]]:
        """What is to be computed, the busiest first."""
        now, found = self._clock(), []
        with self._lock:
            heads = self._heads.get(tenant, OrderedDict())
            for area, text in packs.items():
                own = [(key, head) for key, head in heads.items() if key[0] == area]
                own.sort(key=lambda item: -item[1].heat_at(now))
                inner = self._tokens.inner(text)
                for key, head in own[:_HEADS]:
                    tokens = (*head.tokens, *inner)
                    pinned = _Pinned(tenant, text, key, tokens, now)
                    found.append((head.heat_at(now), _name(tenant, tokens), pinned))
        found.sort(key=lambda item: (-item[0], item[1]))
        return [(name, pinned) for _, name, pinned in found]

    def _request(self, name: str, pinned: _Pinned) -> GenerationRequest:
        start = max(0, len(pinned.tokens) - len(self._tokens.inner(pinned.pack)))
        place = Place(pinned.tokens[:start], len(pinned.tokens))
        labels = _ids_in(pinned.pack)
        return GenerationRequest(
            request_id=f"pack-{uuid.uuid4().hex}",
            prompt_token_ids=pinned.tokens,
            sampling=SamplingParams(max_tokens=0, temperature=0.0),
            arrival=time.monotonic(),
            priority=_LOWEST,
            tenant=pinned.tenant,
            workload=WorkloadClass.BATCH,
            marks=(Mark(labels=labels, start=place.start),) if labels else (),
        )

    async def _pin(self, name: str, pinned: _Pinned) -> None:
        """Pin it with what it is worth now."""
        with self._lock:
            self._pinned[name] = pinned
            heads = self._heads.get(pinned.tenant)
            head = None if heads is None else heads.get(pinned.head)
            heat = 0.0 if head is None else head.heat_at(self._clock())
            texts = self._current.get(pinned.tenant, [])
        old = (
            bool(texts) and pinned.pack not in texts[0] and pinned.pack in frozenset().union(*texts)
        )
        seconds = pinned.seconds or float(len(pinned.tokens)) * 1e-4
        worth = (1.0 + heat) * seconds * (_OLD_WORTH if old else 1.0)
        pin = PrefixPin(
            name=name, tenant=pinned.tenant, token_ids=pinned.tokens,
            worth=worth / max(1, len(pinned.tokens)),
        )  # fmt: skip
        try:
            await self._engine.pin(pin)
        except StepwellError as error:
            logger.warning("a pack was not pinned: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _ids_in(text: str) -> tuple[str, ...]:
    """As `knowledge.render.ids_in`, which needs the extra."""
    return tuple(line[1:-1] for line in text.split("\n") if line.startswith("["))


def _name(tenant: str, tokens: Sequence[int]) -> str:
    digest = hashlib.sha256(repr(tuple(tokens)).encode()).hexdigest()[:24]
    return f"pack/{tenant}/{digest}"
