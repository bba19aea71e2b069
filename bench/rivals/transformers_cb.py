"""transformers with its own continuous batching (`generate_batch`, paged sdpa)."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import median

_BLOCKS = 420
_PAGE = 64


class ContinuousBatching:
    """One model and the operations on it."""

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, model: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        start = time.perf_counter()
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        return {"seconds": time.perf_counter() - start, "versions": versions}

    def run(self, requests: list[dict[str, Any]], tokens: int = 0) -> dict[str, Any]:
        """All requests at once; each with its own output length."""
        start = time.perf_counter()
        outputs: dict[str, list[int]] = {}
        with self._manager() as manager:
            for index, request in enumerate(requests):
                manager.add_request(
                    request["prompt"], request_id=str(index), max_new_tokens=request["max_tokens"]
                )
            while len(outputs) < len(requests):
                result = manager.get_result(timeout=600)
                if result is None:
                    raise TimeoutError("no result in 600 s")
                if result.is_finished():
                    outputs[result.request_id] = list(result.generated_tokens)
        seconds = time.perf_counter() - start
        counts = [len(outputs[str(i)]) for i in range(len(requests))]
        return {
            "seconds": seconds,
            "output_tokens": sum(counts),
            "complete": counts == [r["max_tokens"] for r in requests],
            "ttft": [],
            "tokens": [outputs[str(i)] for i in range(len(requests))] if tokens else None,
        }

    def ttft(self, prompts: list[list[int]], max_tokens: int = 17, warm: int = 2) -> dict[str, Any]:
        """Streams one request at a time; later ones find the prompt's blocks."""
        cold: list[float] = []
        again: list[float] = []
        steps: list[float] = []
        for prompt in prompts:
            with self._manager() as manager:
                for turn in range(1 + warm):
                    name = f"ttft-{turn}"
                    start = time.perf_counter()
                    manager.add_request(
                        prompt, request_id=name, max_new_tokens=max_tokens, streaming=True
                    )
                    times = [time.perf_counter() for _ in manager.request_id_iter(name)]
                    (cold if turn == 0 else again).append(times[0] - start)
                    steps += [b - a for a, b in pairwise(times)]
        return {"cold": cold, "warm": again, "decode_step": median(steps)}

    def _manager(self) -> Any:
        return self._model.continuous_batching_context_manager(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE, num_blocks=_BLOCKS, max_batch_tokens=512
            ),
        )


if __name__ == "__main__":
    contestant = ContinuousBatching()
    serve_contestant({"load": contestant.load, "run": contestant.run, "ttft": contestant.ttft})
