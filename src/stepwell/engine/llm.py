"""The offline entrance: prompts in, completions out, no server.

llm = LLM("house")
print(llm.generate(["def add(a, b):"], SamplingParams(max_tokens=16))[0].text)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stepwell.base.config import load_config
from stepwell.base.errors import InvalidParameter, StepwellError
from stepwell.base.request import (
    Delta,
    EngineStats,
    FinishReason,
    GenerationRequest,
    Timings,
    TokenLogprobs,
    Usage,
)
from stepwell.base.sampling import SamplingParams
from stepwell.engine.build import BuiltEngine, build_engine

if TYPE_CHECKING:
    from stepwell.engine.build_tiers import WrapTier

Prompt = str | Sequence[int]
_WAIT_SECONDS = 0.25
_NO_BOUND = 2**31
_AHEAD_MS = 250  # nobody waits for single tokens


@dataclass(slots=True)
class Completion:
    """One finished choice of one prompt."""

    prompt_index: int
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    error: StepwellError | None = None
    usage: Usage | None = None
    timings: Timings | None = None


class LLM:
    """An engine driven by the caller's own thread. Keyword arguments are settings by their dotted
    names with `__` for the dot: `LLM("house", cache__pool="64MiB")`. `wrap_tier` replaces each
    lower tier as it is opened (fault injection)."""

    def __init__(
        self, model: str = "house", *, wrap_tier: WrapTier | None = None, **settings: Any
    ) -> None:
        overrides: dict[str, Any] = {
            "model.path": model,
            "scheduler.max_waiting": _NO_BOUND,  # the caller holds all prompts already
            "scheduler.ahead_ms": _AHEAD_MS,
        }
        overrides |= {name.replace("__", "."): value for name, value in settings.items()}
        self.built: BuiltEngine = build_engine(
            load_config(overrides=overrides), wrap_tier=wrap_tier
        )
        self.built.pool.touch()
        self._count = 0

    def close(self) -> None:
        """Let go of lower tiers; what they are storing is finished first."""
        self.built.close()

    @property
    def stats(self) -> EngineStats:
        """Counters and gauges."""
        return self.built.engine.stats()

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams | Sequence[SamplingParams],
        *,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Completions of all prompts, in order; n choices of one prompt follow each other.

        A prompt that is refused raises before any is run. `progress` gets the number of choices
        that have just finished. A choice that failed has `error` set.
        """
        engine = self.built.engine
        params = [sampling] * len(prompts) if isinstance(sampling, SamplingParams) else sampling
        requests = self._requests(prompts, params)
        results: dict[tuple[str, int], Completion] = {}
        try:
            for position, request in enumerate(requests):
                engine.add(request)
                for index in range(request.sampling.n):
                    results[request.request_id, index] = Completion(position, index)
            while engine.has_work:
                finished = sum(_add(results[d.request_id, d.index], d) for d in engine.step())
                if progress is not None and finished:
                    progress(finished)
                if engine.blocked:
                    engine.wait_for_transfers(_WAIT_SECONDS)
        except BaseException:
            for request in requests:
                engine.abort(request.request_id)
            raise
        return list(results.values())

    def _requests(
        self, prompts: Sequence[Prompt], params: Sequence[SamplingParams]
    ) -> list[GenerationRequest]:
        requests = []
        for prompt, sampling in zip(prompts, params, strict=True):
            self._count += 1
            requests.append(
                GenerationRequest(
                    request_id=f"offline-{self._count}",
                    prompt_token_ids=tuple(self._tokens(prompt)),
                    sampling=sampling,
                    arrival=time.monotonic(),
                )
            )
        return requests

    def _tokens(self, prompt: Prompt) -> Sequence[int]:
        if not isinstance(prompt, str):
            return prompt
        tokenizer = self.built.loaded.tokenizer
        if tokenizer is None:
            raise InvalidParameter("this model has no tokenizer.", hint="Give token ids.")
        return tokenizer.encode(prompt)


def _add(completion: Completion, delta: Delta) -> int:
    """Append a delta; 1 if it was the last."""
    completion.text += delta.text
    completion.token_ids += delta.token_ids
    completion.logprobs += delta.logprobs
    if delta.prompt_logprobs is not None:
        completion.prompt_logprobs = list(delta.prompt_logprobs)
    if delta.finish_reason is None:
        return 0
    completion.finish_reason, completion.error = delta.finish_reason, delta.error
    completion.usage, completion.timings = delta.usage, delta.timings
    return 1
