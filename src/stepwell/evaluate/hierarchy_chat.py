"""Chats on a device pool that holds only a few of them, without tiers and with a host tier.

In turn: every session sends its first turn, then every session its second, `at_once` at a time, so
that both engines compute the same batches and their tokens can be compared.

With think time: every session returns a random while after its reply, whether the engine is free or
not. Batches then depend on the clock, and tokens on batches by a rounding: they are not compared.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.base.request import Delta, GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
from stepwell.evaluate.statistics import median, percentile

WITHIN_SECONDS = 1.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatLoad:
    """Tokens: `first` of the first prompt, `turn` added by the user in each later one, `output`
    answered. The pool holds `in_pool` whole sessions. `think_seconds`: mean of the exponential
    think time, `thinking_turns`: turns of a session that thinks. `host`: size of the host tier."""

    sessions: int = 64
    turns: int = 2
    first: int = 448
    turn: int = 32
    output: int = 16
    in_pool: int = 4
    at_once: int = 2
    host: str = "3GiB"
    think_seconds: float = 40.0
    thinking_turns: int = 3

    @property
    def contestants(self) -> dict[str, Row]:
        """Settings by name."""
        return {"off": {}, "host": {"tiers__host": self.host}}


def run_chats(folder: Path, load: ChatLoad, *, say: Callable[[str], None]) -> Row:
    """Figures without tiers and with a host tier; `wrong`: tokens that differ between the two."""
    rows: dict[str, Any] = {"load": asdict(load)}
    answers = {}
    for name, settings in load.contestants.items():
        say(f"chats in turn, tiers: {name}")
        llm = _open(folder, load, settings, turns=load.turns)
        answers[name], rows[name] = _run(llm, load)
        llm.close()
    pairs = zip(answers["off"], answers["host"], strict=True)
    rows["wrong"] = sum(a != b for one, other in pairs for a, b in zip(one, other, strict=True))
    return _compared(rows)


def run_thinking_chats(folder: Path, load: ChatLoad, *, say: Callable[[str], None]) -> Row:
    """Figures without tiers and with a host tier, under think time."""
    rows: Row = {"load": asdict(load)}
    for name, settings in load.contestants.items():
        say(f"chats with think time, tiers: {name}")
        llm = _open(folder, load, settings, turns=load.thinking_turns)
        rows[name] = _Thinking(llm, load).run()
        llm.close()
    return _compared(rows)


def _compared(rows: Row) -> Row:
    rows["speedup"] = rows["host"]["output_tokens_per_s"] / rows["off"]["output_tokens_per_s"]
    rows["p99_ttft_ratio"] = rows["host"]["p99_ttft_s"] / rows["off"]["p99_ttft_s"]
    return rows


def _open(folder: Path, load: ChatLoad, settings: Row, *, turns: int) -> LLM:
    tokens = load.first + turns * (load.turn + load.output)
    pool = _pool_bytes(folder, load.in_pool * tokens)
    return LLM(str(folder), cache__pool=str(pool), **settings)


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
    tokens = load.sessions * load.turns * load.output
    return histories, _figures(tokens, time.monotonic() - start, later, slowest)


def _figures(tokens: int, seconds: float, later: list[float], slowest: list[float]) -> Row:
    """`later`: times to the first token of turns after the first; `slowest`: of each session."""
    return {
        "seconds": seconds,
        "output_tokens_per_s": tokens / seconds,
        "p50_ttft_s": median(later),
        "p99_ttft_s": percentile(later, 99),
        "sessions_within_1_s": float(sum(s <= WITHIN_SECONDS for s in slowest)),
    }


def _together(llm: LLM, prompts: dict[int, list[int]], load: ChatLoad) -> dict[int, float]:
    """One turn of some sessions at once; their histories grow. Seconds to the first token."""
    engine = llm.built.engine
    start = time.monotonic()
    for number, prompt in prompts.items():
        engine.add(_request(number, prompt, load, now=start))
    first: dict[int, float] = {}
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            number = _session(delta.request_id)
            first.setdefault(number, time.monotonic() - start)
            prompts[number] += delta.token_ids
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    return first


def _request(number: int, prompt: list[int], load: ChatLoad, *, now: float) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"{number}-{now}", prompt_token_ids=tuple(prompt), arrival=now,
        sampling=SamplingParams(max_tokens=load.output, temperature=0.0, ignore_eos=True),
        session_id=str(number),
    )  # fmt: skip


def _session(request_id: str) -> int:
    return int(request_id.partition("-")[0])


class _Thinking:
    """One run with think time. The random numbers do not depend on the engine's speed: session n's
    think times come from seed n."""

    def __init__(self, llm: LLM, load: ChatLoad) -> None:
        self._llm, self._load = llm, load
        self._sources = [random.Random(n) for n in range(load.sessions)]
        self._histories = [self._words(n, load.first) for n in range(load.sessions)]
        self._turns = [0] * load.sessions
        self._due = [(self._pause(n), n) for n in range(load.sessions)]
        heapq.heapify(self._due)
        self._waiting: dict[int, float] = {}  # session -> when its user pressed enter
        self._later: list[float] = []
        self._slowest = [0.0] * load.sessions

    def run(self) -> Row:
        """Until every session has had all its turns."""
        engine, start = self._llm.built.engine, time.monotonic()
        while self._due or engine.has_work:
            now = time.monotonic() - start
            while self._due and self._due[0][0] <= now:
                when, number = heapq.heappop(self._due)
                self._send(number, when + start)
            if not engine.has_work:
                time.sleep(min(0.05, max(0.0, self._due[0][0] - now)))
                engine.tend()
                continue
            for delta in engine.step():
                if delta.error is not None:
                    raise delta.error
                self._answered(delta, time.monotonic(), start)
            if engine.blocked:
                engine.wait_for_transfers(0.05)
        tokens = self._load.sessions * self._load.thinking_turns * self._load.output
        return _figures(tokens, time.monotonic() - start, self._later, self._slowest)

    def _send(self, number: int, when: float) -> None:
        if self._turns[number]:
            self._histories[number] += self._words(number, self._load.turn)
        self._waiting[number] = when
        self._llm.built.engine.add(_request(number, self._histories[number], self._load, now=when))

    def _answered(self, delta: Delta, now: float, start: float) -> None:
        number = _session(delta.request_id)
        asked = self._waiting.pop(number, None)
        if asked is not None and self._turns[number]:
            self._later.append(now - asked)
            self._slowest[number] = max(self._slowest[number], now - asked)
        self._histories[number] += delta.token_ids
        if delta.finish_reason is not None:
            self._turns[number] += 1
            if self._turns[number] < self._load.thinking_turns:
                heapq.heappush(self._due, (now - start + self._pause(number), number))

    def _words(self, number: int, count: int) -> list[int]:
        vocabulary = self._llm.built.info.vocab_size
        return [self._sources[number].randrange(16, vocabulary) for _ in range(count)]

    def _pause(self, number: int) -> float:
        return self._sources[number].expovariate(1.0 / self._load.think_seconds)
