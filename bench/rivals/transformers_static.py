"""transformers with static batching: left-padded `generate`, each batch until its longest output.

The KV cache is transformers' DynamicCache, attention is sdpa; both are its defaults on a CPU.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import median


class Static:
    """One model and the operations on it."""

    def __init__(self) -> None:
        self._model: Any = None

    def load(self, model: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        start = time.perf_counter()
        self._model = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.bfloat16, attn_implementation="sdpa"
        ).eval()
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        return {"seconds": time.perf_counter() - start, "versions": versions}

    @torch.inference_mode()
    def run(
        self, requests: list[dict[str, Any]], batch: int = 32, tokens: int = 0
    ) -> dict[str, Any]:
        """Batches in arrival order; only the tokens that were asked for count as output."""
        start = time.perf_counter()
        outputs: list[list[int]] = []
        firsts: list[float] = []
        for first in range(0, len(requests), batch):
            group = requests[first : first + batch]
            outputs += self._generate(group)
            firsts += [time.perf_counter() - start] * len(group)  # a batch answers when it ends
        seconds = time.perf_counter() - start
        counts = [len(o) for o in outputs]
        return {
            "seconds": seconds,
            "output_tokens": sum(counts),
            "complete": counts == [r["max_tokens"] for r in requests],
            "ttft": firsts,
            "tokens": outputs if tokens else None,
        }

    def _generate(self, group: list[dict[str, Any]]) -> list[list[int]]:
        width = max(len(r["prompt"]) for r in group)
        ids = torch.zeros((len(group), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(group):
            length = len(request["prompt"])
            ids[row, width - length :] = torch.tensor(request["prompt"])
            mask[row, width - length :] = 1
        result = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(r["max_tokens"] for r in group),
        )
        rows = result[:, width:].tolist()
        return [row[: r["max_tokens"]] for row, r in zip(rows, group, strict=True)]

    @torch.inference_mode()
    def ttft(self, prompts: list[list[int]], max_tokens: int = 17, warm: int = 2) -> dict[str, Any]:
        """Cold: the whole prompt. Warm: the caller kept the cache and crops it by one token."""
        cold, again, steps = [], [], []
        for prompt in prompts:
            ids = torch.tensor([prompt])
            cache = DynamicCache()
            for turn in range(1 + warm):
                start = time.perf_counter()
                if turn == 0:
                    token = self._step(ids, cache)
                else:
                    cache.crop(len(prompt) - 1 - cache.get_seq_length())
                    token = self._step(ids[:, -1:], cache)
                now = time.perf_counter()
                (cold if turn == 0 else again).append(now - start)
                for _ in range(max_tokens - 1):
                    token = self._step(token, cache)
                    steps.append(time.perf_counter() - now)
                    now = time.perf_counter()
        return {"cold": cold, "warm": again, "decode_step": median(steps)}

    def _step(self, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True)


if __name__ == "__main__":
    contestant = Static()
    serve_contestant({"load": contestant.load, "run": contestant.run, "ttft": contestant.ttft})
