"""The engine as `packs.py` asks for it: over the server's own way to the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stepwell.base.errors import EngineError
from stepwell.base.prefix import Erased, Erasure, PinState, PrefixPin
from stepwell.base.request import FinishReason, GenerationRequest
from stepwell.server.async_engine import AsyncEngine


class ServerPackEngine:
    """A `PackEngine`. Calls to the engine's thread wait on others, never on the event loop."""

    def __init__(self, engine: Callable[[], AsyncEngine]) -> None:
        """`engine`: asked for at each call, as the server makes it after its knowledge."""
        self._engine = engine

    async def prefill(self, request: GenerationRequest) -> None:
        """Raises EngineError when the request did not end well."""
        engine = self._engine()
        box = await engine.submit([request], streams=False)
        try:
            while deltas := await box.take():
                for delta in deltas:
                    if delta.finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
                        raise engine.fault_of(delta) or EngineError("a prefill was aborted.")
        except asyncio.CancelledError:
            engine.abandon(box)
            raise

    async def pin(self, pin: PrefixPin) -> PinState:
        return await asyncio.to_thread(self._engine().engine.pin_prefix, pin)

    async def unpin(self, name: str) -> None:
        await asyncio.to_thread(self._engine().engine.unpin_prefix, name)

    async def forget(self, erasure: Erasure) -> Erased:
        return await asyncio.to_thread(self._engine().engine.forget, erasure)

    async def erasing(self) -> int:
        stats, _ = await self._engine().stats()
        return stats.prefixes.erasing
