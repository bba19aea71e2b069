"""ONNX Runtime GenAI on a CPU: its model builder's int4 weights, one sequence at a time.

The checkpoint is converted once, into a folder inside it. Threads are its own choice. Batches of
requests are not driven: its generator pads one static batch, which is not what the others run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as genai

from .shared import Batch, Request, Started, Turn, require, serve

_WEIGHTS = "model.onnx.data"


class OnnxRuntimeGenai:
    """One model; a generator, hence a cache, for each prompt."""

    def __init__(self) -> None:
        self._model: Any = None

    def start(self, model: Path, *, weights: str) -> Started:
        require(weights, ("int4",))
        begin = time.perf_counter()
        folder = _converted(model, weights)
        convert_seconds = time.perf_counter() - begin
        self._model = genai.Model(str(folder))
        versions = {name: version(name) for name in ("onnxruntime-genai", "onnxruntime")}
        engine = f"ONNX Runtime GenAI {versions['onnxruntime-genai']}"
        size = (folder / _WEIGHTS).stat().st_size
        return Started(engine, versions, None, convert_seconds, size)

    def generate(self, requests: Sequence[Request]) -> Batch:
        """Raises NotImplementedError."""
        raise NotImplementedError("no batches of requests of different lengths")

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Later turns keep the prompt's KV but for its last token."""
        params = genai.GeneratorParams(self._model)
        length = len(prompt) + max_tokens
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = genai.Generator(self._model, params)
        for turn in range(count):
            start = time.perf_counter()
            held = len(prompt) - 1 if turn else 0
            if turn:
                generator.rewind_to(held)
            generator.append_tokens(np.asarray(prompt[held:], dtype=np.int32))
            moments = []
            for _ in range(max_tokens):
                generator.generate_next_token()
                moments.append(time.perf_counter())
            yield Turn.of(start, moments)


def _converted(model: Path, weights: str) -> Path:
    """The model in ONNX, by the package's own builder with its defaults for a CPU."""
    folder = model / f"onnxruntime-genai-{weights}"
    if not (folder / _WEIGHTS).is_file():
        command = [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            *("-m", str(model), "-i", str(model), "-o", str(folder)),
            *("-p", weights, "-e", "cpu", "-c", str(folder / "cache")),
        ]
        # Without the adapters on its path, where this file hides the package.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run(command, check=True, cwd=model, env=environment)
    return folder


if __name__ == "__main__":
    serve(OnnxRuntimeGenai())
