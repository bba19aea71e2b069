"""vLLM on a CPU, both cores, compiled, prefix caching on."""

from __future__ import annotations

import os
import time
from typing import Any

from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import median

_CACHE_GIB = "2"


class VllmCpu:
    """One engine and the operations on it."""

    def __init__(self) -> None:
        self._llm: Any = None

    def load(self, model: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        cores = sorted(os.sched_getaffinity(0))
        # By default it binds one core.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}-{cores[-1]}")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CACHE_GIB)
        start = time.perf_counter()
        import torch
        import vllm

        self._llm = vllm.LLM(
            model,
            dtype="bfloat16",
            max_model_len=4096,
            max_num_seqs=64,
            enable_prefix_caching=True,
        )
        versions = {"vllm": vllm.__version__, "torch": torch.__version__}
        return {"seconds": time.perf_counter() - start, "versions": versions}

    def run(self, requests: list[dict[str, Any]], tokens: int = 0) -> dict[str, Any]:
        """All requests at once."""
        start = time.perf_counter()
        outputs = self._generate(
            [r["prompt"] for r in requests], [r["max_tokens"] for r in requests]
        )
        seconds = time.perf_counter() - start
        counts = [len(output) for output in outputs]
        return {
            "seconds": seconds,
            "output_tokens": sum(counts),
            "complete": counts == [r["max_tokens"] for r in requests],
            "ttft": [],
            "tokens": outputs if tokens else None,
        }

    def ttft(self, prompts: list[list[int]], max_tokens: int = 17, warm: int = 2) -> dict[str, Any]:
        """Offline there is no stream: one token is the first, and the rest tell the step."""
        cold: list[float] = []
        again: list[float] = []
        steps: list[float] = []
        for prompt in prompts:
            for turn in range(1 + warm):
                start = time.perf_counter()
                self._generate([prompt], [1])
                (cold if turn == 0 else again).append(time.perf_counter() - start)
            start = time.perf_counter()
            self._generate([prompt], [max_tokens])
            longer = time.perf_counter() - start
            steps.append((longer - again[-1]) / (max_tokens - 1))
        return {"cold": cold, "warm": again, "decode_step": median(steps)}

    def _generate(self, prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        from vllm import SamplingParams, TokensPrompt

        results = self._llm.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in lengths],
            use_tqdm=False,
        )
        return [list(result.outputs[0].token_ids) for result in results]


if __name__ == "__main__":
    contestant = VllmCpu()
    serve_contestant({"load": contestant.load, "run": contestant.run, "ttft": contestant.ttft})
