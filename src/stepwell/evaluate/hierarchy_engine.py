"""What the parts of the hierarchy's bench do with an engine: one request, settling, forgetting."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM

_OUTPUT = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
_SETTLE_SECONDS = 60.0
_GIVE_UP_SECONDS = 10.0


def first_token(llm: LLM, prompt: Sequence[int]) -> tuple[float, tuple[int, ...]]:
    """Seconds to the first token of one request, and its tokens."""
    engine = llm.built.engine
    start = time.monotonic()
    engine.add(
        GenerationRequest(
            request_id=f"bench-{start}",
            prompt_token_ids=tuple(prompt),
            sampling=_OUTPUT,
            arrival=start,
        )
    )
    tokens: tuple[int, ...] = ()
    first = 0.0
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            tokens += delta.token_ids
            first = first or time.monotonic() - start
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    return first, tokens


def settle(llm: LLM) -> None:
    """Wait until every transfer has ended and what a tier has is on its medium."""
    engine, opened = llm.built.engine, llm.built.open_tiers
    if engine.tiers is None or opened is None:
        return
    deadline = time.monotonic() + _SETTLE_SECONDS
    while engine.tiers.hierarchy.stats().open_orders and time.monotonic() < deadline:
        engine.wait_for_transfers(0.05)
        engine.tend()
    for store in opened.stores.values():
        store.flush()


def random_prompt(llm: LLM, length: int, *, seed: int) -> list[int]:
    """Tokens that no other seed begins with."""
    rng = random.Random(seed)
    return [rng.randrange(16, llm.built.info.vocab_size) for _ in range(length)]


def restored_tokens(llm: LLM) -> int:
    tiers = llm.built.engine.tiers
    return 0 if tiers is None else tiers.restored_tokens


def differences(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))


def forget(llm: LLM) -> None:
    """The device forgets all prompts, those too whose blocks a hanging store still holds: it is
    given up soon."""
    engine, deadline = llm.built.engine, time.monotonic() + _GIVE_UP_SECONDS
    engine.clear_cache()
    while engine.stats().blocks_used and time.monotonic() < deadline:
        engine.wait_for_transfers(0.05)
        engine.tend()
        engine.clear_cache()
