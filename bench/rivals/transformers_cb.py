"""transformers with its own continuous batching (`generate_batch`, paged sdpa)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from .shared import Batch, Request, Started, Turn, require, serve
from .transformers_model import load_model

_BLOCKS = 420
_PAGE = 64
_TIMEOUT = 600


class ContinuousBatching:
    """One model; each run and each prompt has a manager, hence a cache, of its own."""

    def __init__(self) -> None:
        self._model: Any = None

    def start(self, model: Path, *, weights: str) -> Started:
        require(weights, ("bf16",))
        self._model, started = load_model(model)
        return started

    def generate(self, requests: Sequence[Request]) -> Batch:
        """All requests at once; each with its own output length."""
        outputs: dict[str, list[int]] = {}
        with self._manager() as manager:
            for index, request in enumerate(requests):
                manager.add_request(
                    request["prompt"], request_id=str(index), max_new_tokens=request["max_tokens"]
                )
            while len(outputs) < len(requests):
                result = manager.get_result(timeout=_TIMEOUT)
                if result is None:
                    raise TimeoutError(f"no result in {_TIMEOUT} s")
                if result.is_finished():
                    outputs[result.request_id] = list(result.generated_tokens)
        return Batch([outputs[str(i)] for i in range(len(requests))])

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Streams one request at a time; later ones find the prompt's blocks."""
        with self._manager() as manager:
            for turn in range(count):
                name = f"ttft-{turn}"
                start = time.perf_counter()
                manager.add_request(
                    prompt, request_id=name, max_new_tokens=max_tokens, streaming=True
                )
                moments = [time.perf_counter() for _ in manager.request_id_iter(name)]
                yield Turn.of(start, moments)

    def _manager(self) -> Any:
        return self._model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE, num_blocks=_BLOCKS, max_batch_tokens=512
            ),
        )


if __name__ == "__main__":
    serve(ContinuousBatching())
