"""Chats that take turns on a device pool that holds only a few of them.

Every session sends its first turn, then every session its second, and so on, `at_once` at a time,
so each has long been forgotten by the pool when it returns (its think time). Run without tiers,
context is dropped and recomputed; with a host tier it is stored and loaded.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
from stepwell.evaluate.statistics import median, percentile

WITHIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLoad:
    """Tokens: `first` of the first prompt, `turn` added by the user in each later one, `output`
    answered. The pool holds `in_pool` whole sessions."""

    sessions: int = 64
    turns: int = 2
    first: int = 448
    turn: int = 32
    output: int = 16
    in_pool: int = 4
    at_once: int = 2


def run_chats(folder: Path, load: ChatLoad, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Figures without tiers and with a host tier; `wrong`: tokens that differ between the two."""
    rows: dict[str, Any] = {"load": asdict(load)}
    answers = {}
    contestants: dict[str, dict[str, Any]] = {"off": {}, "host": {"tiers__host": "3GiB"}}
    for name, settings in contestants.items():
        say(f"chats, tiers: {name}")
        tokens = load.first + load.turns * (load.turn + load.output)
        llm = LLM(str(folder), cache__pool=str(_pool_bytes(folder, load.in_pool * tokens)),
                  **settings)  # fmt: skip
        answers[name], rows[name] = _run(llm, load)
        llm.close()
    pairs = zip(answers["off"], answers["host"], strict=True)
    rows["wrong"] = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
    rows["speedup"] = rows["host"]["output_tokens_per_s"] / rows["off"]["output_tokens_per_s"]
    rows["p99_ttft_ratio"] = rows["host"]["p99_ttft_s"] / rows["off"]["p99_ttft_s"]
    return rows


def _pool_bytes(folder: Path, tokens: int) -> int:
    """Bytes of a pool with room for `tokens` tokens, and a little for the turn that comes."""
    llm = LLM(str(folder), cache__pool="64MiB", scheduler__max_step_tokens=16)
    pool = llm.built.pool
    return (tokens // pool.block_size + 8) * pool.block_bytes


def _run(llm: LLM, load: ChatLoad) -> tuple[list[list[int]], dict[str, float]]:
    rng = random.Random(7)
    vocabulary = llm.built.info.vocab_size

    def words(count: int) -> list[int]:
        return [rng.randrange(16, vocabulary) for _ in range(count)]

    histories = [words(load.first) for _ in range(load.sessions)]
    later: list[float] = []
    slowest = [0.0] * load.sessions
    start = time.monotonic()
    for turn in range(load.turns):
        if turn:
            for history in histories:
                history += words(load.turn)
        for first in range(0, load.sessions, load.at_once):
            group = range(first, min(first + load.at_once, load.sessions))
            for number, seconds in _together(llm, {n: histories[n] for n in group}, load).items():
                if turn:
                    later.append(seconds)
                    slowest[number] = max(slowest[number], seconds)
    taken = time.monotonic() - start
    return histories, {
        "seconds": taken,
        "output_tokens_per_s": load.sessions * load.turns * load.output / taken,
        "p50_ttft_s": median(later),
        "p99_ttft_s": percentile(later, 99),
        "sessions_within_1_s": float(sum(s <= WITHIN_SECONDS for s in slowest)),
    }


def _together(llm: LLM, prompts: dict[int, list[int]], load: ChatLoad) -> dict[int, float]:
    """One turn of some sessions at once; their histories grow. Seconds to the first token."""
    engine = llm.built.engine
    start = time.monotonic()
    sampling = SamplingParams(max_tokens=load.output, temperature=0.0, ignore_eos=True)
    for number, prompt in prompts.items():
        engine.add(
            GenerationRequest(
                request_id=f"{number}-{start}", prompt_token_ids=tuple(prompt),
                sampling=sampling, arrival=start, session_id=str(number),
            )
        )  # fmt: skip
    first: dict[int, float] = {}
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            number = int(delta.request_id.partition("-")[0])
            first.setdefault(number, time.monotonic() - start)
            prompts[number] += delta.token_ids
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    return first
