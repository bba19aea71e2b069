"""OpenVINO GenAI's continuous batching pipeline (fp16 weights, prefix caching on).

The checkpoint is converted once, into a folder beside it.
"""

# The file's own folder must not shadow the package of the same name.
from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parent]

import numpy as np  # noqa: E402
import openvino  # noqa: E402
import openvino_genai  # noqa: E402

from stepwell.evaluate.protocol import serve_contestant  # noqa: E402
from stepwell.evaluate.statistics import median  # noqa: E402

_CACHE_GIB = 2


class OpenVino:
    """One pipeline and the operations on it."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._count = 0

    def load(self, model: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        start = time.perf_counter()
        folder = _converted(Path(model))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GIB
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 512
        self._pipe = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU")
        versions = {"openvino-genai": openvino_genai.__version__}
        return {"seconds": time.perf_counter() - start, "versions": versions}

    def run(self, requests: list[dict[str, Any]], tokens: int = 0) -> dict[str, Any]:
        """All requests at once."""
        start = time.perf_counter()
        handles = [self._add(r["prompt"], r["max_tokens"]) for r in requests]
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
        seconds = time.perf_counter() - start
        outputs = [list(handle.read_all()[0].generated_ids) for handle in handles]
        counts = [len(output) for output in outputs]
        return {
            "seconds": seconds,
            "output_tokens": sum(counts),
            "complete": counts == [r["max_tokens"] for r in requests],
            "ttft": [],
            "tokens": outputs if tokens else None,
        }

    def ttft(self, prompts: list[list[int]], max_tokens: int = 17, warm: int = 2) -> dict[str, Any]:
        """Step by step, one request at a time."""
        cold: list[float] = []
        again: list[float] = []
        steps: list[float] = []
        for prompt in prompts:
            for turn in range(1 + warm):
                start = time.perf_counter()
                handle = self._add(prompt, max_tokens)
                times = []
                while self._pipe.has_non_finished_requests():
                    self._pipe.step()
                    if handle.can_read():
                        handle.read()
                        times.append(time.perf_counter())
                (cold if turn == 0 else again).append(times[0] - start)
                steps += [b - a for a, b in pairwise(times)]
        return {"cold": cold, "warm": again, "decode_step": median(steps)}

    def _add(self, prompt: list[int], max_tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.do_sample = False
        config.ignore_eos = True
        self._count += 1
        tensor = openvino.Tensor(np.array([prompt], dtype=np.int64))
        return self._pipe.add_request(self._count, tensor, config)


def _converted(model: Path) -> Path:
    """The model in OpenVINO's format."""
    folder = model / "openvino-fp16"
    if not (folder / "openvino_model.bin").is_file():
        tool = Path(sys.executable).parent / "optimum-cli"
        command = [
            str(tool),
            "export",
            "openvino",
            "-m",
            str(model),
            "--task",
            "text-generation-with-past",
            "--weight-format",
            "fp16",
            str(folder),
        ]
        subprocess.run(command, check=True)
    return folder


if __name__ == "__main__":
    contestant = OpenVino()
    serve_contestant({"load": contestant.load, "run": contestant.run, "ttft": contestant.ttft})
