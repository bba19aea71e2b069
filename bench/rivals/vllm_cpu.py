"""vLLM on a CPU, both cores, compiled, prefix caching on.

Its documentation asks for tcmalloc and Intel's OpenMP to be preloaded; they are where they are
installed in its environment (`setup.sh`), else vLLM preloads torch's libgomp by itself.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .shared import Batch, Request, Started, Turn, require, serve

_CACHE_GIB = "2"
_PRELOADED = ("libtcmalloc_minimal.so*", "libiomp5.so")


class VllmCpu:
    """One engine, which vLLM runs in a process of its own."""

    def __init__(self) -> None:
        self._llm: Any = None

    def start(self, model: Path, *, weights: str) -> Started:
        require(weights, ("bf16",))
        cores = sorted(os.sched_getaffinity(0))
        # By default it binds one core.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"{cores[0]}-{cores[-1]}")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CACHE_GIB)
        if libraries := preloads(Path(sys.prefix) / "lib"):
            os.environ.setdefault("LD_PRELOAD", ":".join(libraries))  # for the engine's process
        import torch
        import vllm

        self._llm = vllm.LLM(
            str(model),
            dtype="bfloat16",
            max_model_len=4096,
            max_num_seqs=64,
            enable_prefix_caching=True,
        )
        loaded = os.environ.get("LD_PRELOAD", "").split(":")
        names = " ".join(Path(library).name for library in loaded if library)
        versions = {"vllm": vllm.__version__, "torch": torch.__version__, "preloaded": names}
        return Started(f"vLLM {vllm.__version__}", versions, threads=len(cores))

    def generate(self, requests: Sequence[Request]) -> Batch:
        """All requests at once."""
        prompts = [r["prompt"] for r in requests]
        return Batch(self._generate(prompts, [r["max_tokens"] for r in requests]))

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Offline there is no stream: one token is the first, and after the last turn a longer
        output tells the step."""
        for turn in range(count):
            start = time.perf_counter()
            self._generate([prompt], [1])
            first = time.perf_counter() - start
            steps = []
            if turn == count - 1:
                start = time.perf_counter()
                self._generate([prompt], [max_tokens])
                longer = time.perf_counter() - start
                steps.append((longer - first) / (max_tokens - 1))
            yield Turn(first, steps)

    def _generate(self, prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        from vllm import SamplingParams, TokensPrompt

        results = self._llm.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True) for n in lengths],
            use_tqdm=False,
        )
        return [list(result.outputs[0].token_ids) for result in results]


def preloads(folder: Path) -> list[str]:
    """The libraries that vLLM wants preloaded, as far as this folder has them."""
    found = [sorted(folder.glob(pattern)) for pattern in _PRELOADED]
    return [str(files[0]) for files in found if files]


if __name__ == "__main__":
    serve(VllmCpu())
