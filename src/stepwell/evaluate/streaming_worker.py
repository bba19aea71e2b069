"""Stepwell with streamed weights as a contestant: `python -m stepwell.evaluate.streaming_worker`.

Its engine has a budget for weights; the process runs under a memory limit of its caller's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
from stepwell.evaluate.protocol import serve_contestant


class StreamedWorker:
    """One engine."""

    def __init__(self) -> None:
        self._llm: LLM | None = None

    def load(self, model: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Build the engine; `settings` by dotted name."""
        start = time.perf_counter()
        names = {name.replace(".", "__"): value for name, value in settings.items()}
        self._llm = llm = LLM(model, **names)
        return {
            "seconds": time.perf_counter() - start,
            "weight_bytes": llm.built.info.weight_bytes,
            "pool_bytes": llm.stats.memory.pool,
            "decisions": [decision.as_dict() for decision in llm.built.decisions],
        }

    def read(self, passes: int) -> dict[str, Any]:
        """What the disk gives: the same reads into the same slots, with nothing computed."""
        streamer = self._engine.built.loaded.streamer
        assert streamer is not None
        speeds = []
        for _ in range(passes):
            before, start = streamer.stats().read_bytes, time.perf_counter()
            streamer.check_all()
            seconds = time.perf_counter() - start
            speeds.append((streamer.stats().read_bytes - before) / seconds)
        return {"bytes_per_second": speeds}

    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> dict[str, Any]:
        """All prompts at once, from an empty batch to the last token."""
        streamer = self._engine.built.loaded.streamer
        assert streamer is not None
        streamer.reset()
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        start = time.perf_counter()
        results = self._engine.generate(prompts, sampling)
        seconds = time.perf_counter() - start
        stats = streamer.stats()
        prompts_read = max(c.timings.first_token or 0.0 for c in results if c.timings is not None)
        decoding = max(c.timings.finished for c in results if c.timings is not None) - prompts_read
        passes = max_tokens - 1  # after all prompts have been computed
        return {
            "seconds": seconds,
            "decode_seconds": decoding,
            "decode_bytes_per_second": passes * streamer.residency.streamed / decoding,
            "tokens": [choice.token_ids for choice in results],
            "passes": stats.passes,
            "read_bytes": stats.read_bytes,
            "waited_seconds": stats.waited_seconds,
        }

    @property
    def _engine(self) -> LLM:
        assert self._llm is not None, "load first"
        return self._llm


if __name__ == "__main__":
    worker = StreamedWorker()
    serve_contestant({"load": worker.load, "read": worker.read, "run": worker.run})
