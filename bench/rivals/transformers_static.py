"""transformers with static batching: left-padded `generate`, each batch until its longest output.

The KV cache is transformers' DynamicCache, attention is sdpa; both are its defaults on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from .shared import Batch, Request, Started, Turn, require, serve
from .transformers_model import load_model


class Static:
    """One model, run batch by batch."""

    def __init__(self) -> None:
        self._model: Any = None

    def start(self, model: Path, *, weights: str) -> Started:
        require(weights, ("bf16",))
        self._model, started = load_model(model)
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0
        return started

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], batch: int = 32) -> Batch:
        """Batches in arrival order; only the tokens that were asked for count as output."""
        start = time.perf_counter()
        outputs: list[list[int]] = []
        firsts: list[float] = []
        for first in range(0, len(requests), batch):
            group = requests[first : first + batch]
            outputs += self._generate(group)
            firsts += [time.perf_counter() - start] * len(group)  # a batch answers when it ends
        return Batch(outputs, firsts)

    def _generate(self, group: Sequence[Request]) -> list[list[int]]:
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

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Cold: the whole prompt. Warm: the caller kept the cache and crops it by one token."""
        ids = torch.tensor([prompt])
        cache = DynamicCache()
        for turn in range(count):
            start = time.perf_counter()
            if turn == 0:
                token = self._step(ids, cache)
            else:
                cache.crop(len(prompt) - 1 - cache.get_seq_length())
                token = self._step(ids[:, -1:], cache)
            moments = [time.perf_counter()]
            for _ in range(max_tokens - 1):
                token = self._step(token, cache)
                moments.append(time.perf_counter())
            yield Turn.of(start, moments)

    @torch.inference_mode()
    def _step(self, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1].argmax(-1, keepdim=True)


if __name__ == "__main__":
    serve(Static())
