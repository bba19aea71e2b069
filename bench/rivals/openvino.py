"""OpenVINO GenAI's continuous batching pipeline, prefix caching on; fp16, int8 or int4 weights.

The checkpoint is converted once, into a folder inside it. Threads are OpenVINO's own choice.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from .shared import Batch, Request, Started, Turn, require, serve

_CACHE_GIB = 2
_WEIGHTS = "openvino_model.bin"
_EXPORTS = {"bf16": ("fp16",), "int8": ("int8",), "int4": ("int4", "--all-layers")}
"""What `optimum-cli export openvino --weight-format` is told. fp16 weights are computed with in
bfloat16 where the CPU has it. Without `--all-layers` an int4 model's head stays in int8, which is
half of its bytes in this shape."""
_KV = {"bf16": "bf16", "int8": "u8", "int4": "u8"}


class OpenVino:
    """One pipeline."""

    def __init__(self) -> None:
        self._pipe: Any = None
        self._count = 0

    def start(self, model: Path, *, weights: str) -> Started:
        require(weights, _EXPORTS)
        begin = time.perf_counter()
        folder = _converted(model, weights)
        convert_seconds = time.perf_counter() - begin
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GIB
        scheduler.enable_prefix_caching = True
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 512
        self._pipe = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, "CPU", {"KV_CACHE_PRECISION": _KV[weights]}
        )
        versions = {"openvino-genai": openvino_genai.__version__}
        engine = f"OpenVINO GenAI {openvino_genai.__version__}"
        size = (folder / _WEIGHTS).stat().st_size
        return Started(engine, versions, _threads(), convert_seconds, size)

    def generate(self, requests: Sequence[Request]) -> Batch:
        """All requests at once."""
        handles = [self._add(r["prompt"], r["max_tokens"]) for r in requests]
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
        return Batch([list(handle.read_all()[0].generated_ids) for handle in handles])

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Step by step, one request at a time; later ones find the prompt's blocks."""
        for _ in range(count):
            start = time.perf_counter()
            handle = self._add(prompt, max_tokens)
            moments = []
            while self._pipe.has_non_finished_requests():
                self._pipe.step()
                if handle.can_read():
                    handle.read()
                    moments.append(time.perf_counter())
            yield Turn.of(start, moments)

    def _add(self, prompt: list[int], max_tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.do_sample = False
        config.ignore_eos = True
        self._count += 1
        tensor = openvino.Tensor(np.array([prompt], dtype=np.int64))
        return self._pipe.add_request(self._count, tensor, config)


def _threads() -> int:
    """What OpenVINO chooses here: the pipeline does not tell, so a model of one addition does."""
    value = openvino.opset13.parameter([1], np.float32)
    model = openvino.Model([openvino.opset13.add(value, value)], [value])
    return int(openvino.Core().compile_model(model, "CPU").get_property("INFERENCE_NUM_THREADS"))


def _converted(model: Path, weights: str) -> Path:
    """The model in OpenVINO's format."""
    export = _EXPORTS[weights]
    folder = model / "-".join(("openvino", *export)).replace("---", "-")
    if not (folder / _WEIGHTS).is_file():
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
            *export,
            str(folder),
        ]
        subprocess.run(command, check=True)
    return folder


if __name__ == "__main__":
    serve(OpenVino())
