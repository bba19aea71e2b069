"""The served model as a reader of golden cases."""

from __future__ import annotations

import secrets
import time

from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.server.async_engine import AsyncEngine, Mailbox
from stepwell.server.knowledge.weave import SEPARATOR
from stepwell.server.reply import first_fault

_TOKENS = 96
_LAST = 1 << 20
"""Priority: behind all requests of clients."""


class ModelReader:
    """Greedy, short, in the engine's own queue. Its KV is nobody's context: it is not stored in a
    lower tier, and it has no tenant's salt but its own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def answer(self, question: str, context: str) -> str:
        """What the model says. Raises EngineError, RequestError."""
        content = f"{context}{SEPARATOR}{question}" if context else question
        messages = [{"role": "user", "content": content}]
        ids = self._engine.tokenizer.encode_chat(messages)
        name = f"case-{secrets.token_hex(12)}"
        request = GenerationRequest(
            request_id=name,
            prompt_token_ids=tuple(ids),
            sampling=SamplingParams(temperature=0.0, max_tokens=_TOKENS),
            arrival=time.monotonic(),
            priority=_LAST,
            tenant=name,
            store=False,
        )
        box = await self._engine.submit((request,), streams=False)
        try:
            return await self._text(box)
        finally:
            self._engine.abandon(box)

    async def _text(self, box: Mailbox) -> str:
        text = ""
        while True:
            deltas = await box.take()
            bad = first_fault(deltas)
            if bad is not None and (error := self._engine.fault_of(bad)) is not None:
                raise error
            text += "".join(delta.text for delta in deltas)
            if not deltas or any(delta.finish_reason is not None for delta in deltas):
                return text
