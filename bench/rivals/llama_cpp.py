"""llama.cpp: continuous batching over a fixed set of sequences; bf16, Q8_0 or Q4_0 weights.

As its server does, a step first takes one token of each sequence that generates, then prompts as
far as the batch has room, and a finished sequence's place goes to the next request at once. The
loop is Python around `llama_decode`; llama-server itself is not measured.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shared import Batch, Request, Started, Turn, require, serve

if TYPE_CHECKING:
    from .llama_decoder import Decoder

_SEQUENCES = 32
_CONTEXT = 4096
_BATCH = 512


@dataclass(slots=True)
class Row:
    """One request on its way: `fed` of its prompt, its output, and when its first token came."""

    prompt: list[int]
    max_tokens: int
    fed: int = 0
    output: list[int] = field(default_factory=list)
    first: float = 0.0


class LlamaCpp:
    """One decoder and the loop around it."""

    def __init__(self, decoder: Decoder | None = None) -> None:
        self._decoder: Any = decoder

    def start(self, model: Path, *, weights: str) -> Started:
        import llama_cpp

        from .llama_decoder import Decoder
        from .llama_quantize import FORMATS, quantized
        from .qwen2_gguf import converted

        require(weights, ("bf16", *FORMATS))
        begin = time.perf_counter()
        file = quantized(converted(model), weights)
        convert_seconds = time.perf_counter() - begin
        self._decoder = Decoder(
            file,
            sequences=_SEQUENCES,
            max_context=_CONTEXT,
            threads=len(os.sched_getaffinity(0)),
            batch=_BATCH,
        )
        version = llama_cpp.__version__
        native = llama_cpp.llama_version().decode()
        return Started(
            f"llama.cpp {native} (llama-cpp-python {version})",
            {"llama-cpp-python": version, "llama.cpp": native},
            self._decoder.threads,
            convert_seconds,
            file.stat().st_size,
        )

    def generate(self, requests: Sequence[Request]) -> Batch:
        """All requests at once, as many at a time as there are sequences."""
        start = time.perf_counter()
        rows = [Row(list(r["prompt"]), r["max_tokens"]) for r in requests]
        self._check(rows)
        waiting = deque(rows)
        running: dict[int, Row] = {}
        while waiting or running:
            for place in range(_SEQUENCES):
                if waiting and place not in running:
                    running[place] = waiting.popleft()
            self._step(running)
            for place, row in list(running.items()):
                if len(row.output) == row.max_tokens:
                    self._decoder.forget(place)
                    del running[place]
        return Batch([row.output for row in rows], [row.first - start for row in rows])

    def _step(self, running: dict[int, Row]) -> None:
        """One decode: a token of everyone who generates, then prompts while there is room."""
        asked: list[Row] = []
        for place, row in running.items():
            if row.output:
                position = len(row.prompt) + len(row.output) - 1
                self._decoder.feed(place, row.output[-1:], position=position, wanted=True)
                asked.append(row)
        for place, row in running.items():
            chunk = row.prompt[row.fed : row.fed + self._decoder.room]
            if chunk and not row.output:
                position, row.fed = row.fed, row.fed + len(chunk)
                last = row.fed == len(row.prompt)
                self._decoder.feed(place, chunk, position=position, wanted=last)
                if last:
                    asked.append(row)
        tokens = self._decoder.decode()
        now = time.perf_counter()
        for row, token in zip(asked, tokens, strict=True):
            row.first = row.first or now
            row.output.append(token)

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        """Later turns keep the prompt's KV but for its last token, as llama-server does."""
        self._check([Row(prompt, max_tokens)])
        for turn in range(count):
            start = time.perf_counter()
            row = Row(prompt, max_tokens, fed=len(prompt) - 1 if turn else 0)
            self._decoder.forget(0, position=row.fed)
            moments = []
            while len(row.output) < max_tokens:
                before = len(row.output)
                self._step({0: row})
                moments += [time.perf_counter()] * (len(row.output) - before)
            yield Turn.of(start, moments)
        self._decoder.forget(0)

    def _check(self, rows: Sequence[Row]) -> None:
        """Raises ValueError for a request that no sequence can hold."""
        longest = max((len(row.prompt) + row.max_tokens for row in rows), default=0)
        if longest > self._decoder.context:
            raise ValueError(f"{longest} tokens, but a sequence holds {self._decoder.context}")


if __name__ == "__main__":
    serve(LlamaCpp())
