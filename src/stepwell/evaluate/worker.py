"""Stepwell as a contestant: the engine in a process of its own, driven step by step.

Run as `python -m stepwell.evaluate.worker`; `protocol` says how it is spoken to. Besides the
operations that every contestant has (load, run, ttft), it measures the machine's ceiling, its own
memory, and a soak of many requests.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from stepwell.evaluate.beside_reading import PIECE, Piece, decode_beside_reading
from stepwell.evaluate.ceiling import ModelCost, Reading, measure_ceiling
from stepwell.evaluate.driving import Driver
from stepwell.evaluate.memory import AllocationCounter, malloc_bytes
from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import first_token_figures, slope
from stepwell.evaluate.weights_read import WeightsRead, weights_read
from stepwell.evaluate.workload import Mix
from stepwell.hardware.collector import collect_rarely
from stepwell.hardware.machine import resident_bytes

if TYPE_CHECKING:
    from stepwell.engine.engine import Engine
    from stepwell.engine.llm import LLM

_SOAK_SAMPLES = 100
_READ_BYTES = 512 << 20


class StepwellContestant:
    """One engine and the operations on it."""

    def __init__(self) -> None:
        self._llm: LLM | None = None

    def operations(self) -> dict[str, Callable[..., Mapping[str, Any]]]:
        """What the protocol may ask for."""
        return {
            "load": self.load,
            "run": self.run,
            "ttft": self.ttft,
            "decode": self.decode,
            "ceiling": lambda quick: measure_ceiling(quick=quick).as_dict(),
            "memory": self.memory,
            "soak": self.soak,
        }

    def load(self, model: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Build the engine. `settings`: by dotted name. `compile_seconds`: of `seconds`, what went
        into kernels that were not in the disk cache, once on a machine."""
        import torch

        import stepwell
        from stepwell.engine.llm import LLM
        from stepwell.kernels.native.compile_log import made

        start = time.perf_counter()
        keywords = {name.replace(".", "__"): value for name, value in (settings or {}).items()}
        self._llm = LLM(model, **keywords)
        built = self._llm.built
        weights = weights_read(built.loaded.model, config=built.loaded.hf_config.get_text_config())
        pool_tokens = built.pool.num_blocks * built.pool.block_size
        return {
            "seconds": time.perf_counter() - start,
            "compile_seconds": sum(kernel.seconds for kernel in made() if kernel.compiled),
            "versions": {"stepwell": stepwell.__version__, "torch": torch.__version__},
            "cost": _model_cost(built, weights).as_dict(),
            "weights": weights.as_dict(),
            "pool_tokens": pool_tokens,
            "pool_bytes": built.pool.nbytes,
            "vocab_size": built.info.vocab_size,
            "max_model_len": built.info.max_model_len,
            "decisions": [decision.as_dict() for decision in built.decisions],
        }

    def run(self, requests: Sequence[Mapping[str, Any]], tokens: int = 0) -> dict[str, Any]:
        """All requests at once, from an empty prefix cache; seconds until the last is done."""
        engine = self._engine
        engine.clear_cache()
        engine.reset_counters()
        start = time.monotonic()
        tracks = self._driver.run(requests)
        seconds = time.monotonic() - start
        stats = engine.stats()
        return {
            "seconds": seconds,
            "output_tokens": sum(len(track.times) for track in tracks),
            "complete": all(len(t.times) == t.max_tokens for t in tracks),
            "ttft": [track.times[0] - start for track in tracks if track.times],
            "steps": stats.steps,
            "preemptions": stats.preemptions,
            "kv_waste": stats.waste_ratio_mean,
            "tokens": [track.tokens for track in tracks] if tokens else None,
        }

    def ttft(
        self, prompts: Sequence[Sequence[int]], max_tokens: int = 17, warm: int = 2
    ) -> dict[str, Any]:
        """Each prompt from an empty cache, then `warm` times again. Seconds to the first token,
        and between the later ones (the decode step at this length)."""
        cold: list[float] = []
        again: list[float] = []
        steps: list[float] = []
        for prompt in prompts:
            self._engine.clear_cache()
            for turn in range(1 + warm):
                start = time.monotonic()
                (track,) = self._driver.run([{"prompt": prompt, "max_tokens": max_tokens}])
                (cold if turn == 0 else again).append(track.times[0] - start)
                steps += [b - a for a, b in pairwise(track.times)]
        return first_token_figures(cold, again, steps)

    def decode(self, prompt: Sequence[int], max_tokens: int, turns: int = 1) -> dict[str, Any]:
        """One sequence, its prompt computed in the first of the turns; between pieces of it memory
        is read. Seconds to the first token, tokens a second after it, and the pieces."""
        import torch

        driver, threads = self._driver, torch.get_num_threads()
        driver.engine.clear_cache()
        first: list[float] = []
        pieces: list[Piece] = []
        with Reading(_READ_BYTES, threads=threads) as reading:
            for _ in range(turns):
                start = time.monotonic()
                track = driver.add({"prompt": prompt, "max_tokens": max_tokens})
                driver.advance(track)
                first.append(track.times[0] - start)
                pieces += decode_beside_reading(
                    partial(driver.advance, track), context=len(prompt), reading=reading,
                    piece=max(1, min(PIECE, max_tokens - 1)),
                )  # fmt: skip
        seconds = sum(piece.seconds for piece in pieces)
        rate = sum(piece.tokens for piece in pieces) / seconds if pieces else math.nan
        return {"ttft": first, "decode_rate": rate, "pieces": [asdict(piece) for piece in pieces]}

    def memory(self, mix: Mapping[str, Any], warm_turns: int = 2) -> dict[str, Any]:
        """Waste and allocations over one drawing of the mix, after `warm_turns` others."""
        mixed = _mix(mix)
        counter = AllocationCounter()
        pool = self._pool_address
        for turn in range(warm_turns):
            self._driver.run(
                _as_dicts(mixed, turn), on_step=lambda: counter.warm(pool_address=pool())
            )
        self._engine.clear_cache()
        self._engine.reset_counters()
        counter.start()
        self._driver.run(
            _as_dicts(mixed, warm_turns), on_step=lambda: counter.step(pool_address=pool())
        )
        result = counter.result()
        stats = self._engine.stats()
        return result | {"kv_waste": stats.waste_ratio_mean, "preemptions": stats.preemptions}

    def soak(self, requests: int, mix: Mapping[str, Any], window: int = 32) -> dict[str, Any]:
        """Many short requests, at most `window` at a time; memory sampled along the way.

        The slope is of the second half, in bytes a request: what the first requests bring into
        memory for good (code, buffers, a pool that fills) is no leak.
        """
        mixed = _mix(mix)
        done: list[int] = []
        resident: list[int] = []
        held: list[int] = []
        every = max(1, requests // _SOAK_SAMPLES)
        start = time.monotonic()
        for first in range(0, requests, every):
            count = min(every, requests - first)
            batch = _as_dicts(replace(mixed, count=count), first)
            self._driver.run(batch, window=window)
            done.append(first + count)
            resident.append(resident_bytes())
            held.append(malloc_bytes() or 0)
        half = len(done) // 2
        return {
            "requests": requests,
            "seconds": time.monotonic() - start,
            "resident_first": resident[0],
            "resident_middle": resident[half],
            "resident_last": resident[-1],
            "resident_slope": slope(done[half:], resident[half:]),
            "malloc_slope": slope(done[half:], held[half:]),
            "samples": [list(pair) for pair in zip(done, resident, strict=True)],
        }

    @property
    def _engine(self) -> Engine:
        assert self._llm is not None, "load comes first"
        return self._llm.built.engine

    @property
    def _driver(self) -> Driver:
        return Driver(self._engine)

    def _pool_address(self) -> int:
        assert self._llm is not None, "load comes first"
        return self._llm.built.pool.storage.data_ptr()


def _mix(fields: Mapping[str, Any]) -> Mix:
    """A mix that came as JSON, where tuples are lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Mix(**values)


def _as_dicts(mix: Mix, turn: int) -> list[dict[str, Any]]:
    """One drawing, with lengths that change from turn to turn too."""
    drawn = replace(mix, seed=mix.seed + turn)
    return drawn.draw(turn=turn).as_dicts()


def _model_cost(built: Any, weights: WeightsRead) -> ModelCost:
    """Parameters by who passes them; embedding rows are looked up, not multiplied.

    From the configuration: kernels may have packed the weights themselves away.
    """
    config = built.loaded.hf_config.get_text_config()
    embedding = config.vocab_size * config.hidden_size
    copies = 1 if config.tie_word_embeddings else 2
    body = built.info.parameters - copies * embedding
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelCost(
        parameters=body,
        head_parameters=embedding,
        decode_bytes=weights.total,
        kv_bytes=built.pool.block_bytes // built.pool.block_size,
        attention_width=config.num_hidden_layers * config.num_attention_heads * size,
    )


def main() -> None:
    """Answer on stdin and stdout until told to quit. Starts as the command line does."""
    from stepwell.model.quick_imports import import_transformers

    collect_rarely()
    import_transformers()
    random.seed(0)
    serve_contestant(StepwellContestant().operations())


if __name__ == "__main__":
    main()
