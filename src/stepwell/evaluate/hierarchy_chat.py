"""Many chat sessions with think time over a device pool that holds four of them."""

from __future__ import annotations

import heapq
import random
import time
from dataclasses import dataclass, field
from typing import Any

from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.base.units import format_seconds
from stepwell.engine.llm import LLM
from stepwell.evaluate.hierarchy_drive import draw_prompt
from stepwell.evaluate.hierarchy_scale import Scale
from stepwell.evaluate.options import OnProgress, Section
from stepwell.evaluate.statistics import median, percentile

REPLY, TURN = 8, 24
"""Tokens of a reply, and that a user adds."""
_HELD = 4
_SAMPLING = SamplingParams(max_tokens=REPLY, temperature=0.0, ignore_eos=True)
_COLUMNS = ("tiers", "output tokens/s", "p50 TTFT", "p99 TTFT")


@dataclass(slots=True)
class _Chat:
    """One session: what it has said, and when its present turn was due."""

    prompt: list[int]
    turns: int
    source: random.Random
    due: float = 0.0
    waiting: bool = False
    reply: list[int] = field(default_factory=list)


def chat_section(model: str, scale: Scale, *, block_bytes: int, say: OnProgress) -> Section:
    """Host tier and none, in turn; prompts differ between rounds."""
    tokens = scale.chat_prompt + scale.chat_turns * (TURN + REPLY)
    pool = f"{_HELD * -(-tokens // 16) * block_bytes}B"
    engines = {"host": LLM(model, cache__pool=pool, tiers__host="2GiB"),
               "off": LLM(model, cache__pool=pool)}  # fmt: skip
    figures: dict[str, Any] = {name: {"rate": [], "ttft": []} for name in engines}
    try:
        for number in range(scale.chat_rounds):
            for name in list(engines) if number % 2 == 0 else reversed(engines):
                say(f"chats: tiers {name}")
                seconds, ttft = _run(engines[name], scale, seed=f"{scale.seed}/{number}")
                outputs = scale.chats * scale.chat_turns * REPLY
                figures[name]["rate"].append(outputs / seconds)
                figures[name]["ttft"] += ttft
    finally:
        for llm in engines.values():
            llm.close()
    rows = []
    for name, found in figures.items():
        ttft = found.pop("ttft")
        found |= {f"p{q}_ttft_s": percentile(ttft, q) for q in (50, 99)} | {"n": len(ttft)}
        rows.append((
            name, f"{median(found['rate']):.1f}", format_seconds(found["p50_ttft_s"]),
            format_seconds(found["p99_ttft_s"]),
        ))  # fmt: skip
    figures["rate_ratio"] = median(figures["host"]["rate"]) / median(figures["off"]["rate"])
    figures["p99_ratio"] = figures["host"]["p99_ttft_s"] / figures["off"]["p99_ttft_s"]
    title = (
        f"{scale.chats} chats of {scale.chat_turns} turns from {scale.chat_prompt} tokens; the "
        f"device holds {_HELD}"
    )
    return Section("chat", title, _COLUMNS, tuple(rows), figures)


def _run(llm: LLM, scale: Scale, *, seed: str) -> tuple[float, list[float]]:
    """(seconds for all turns, TTFT of each from when it was due)."""
    engine = llm.built.engine
    chats: dict[str, _Chat] = {}
    due: list[tuple[float, str]] = []
    began = time.monotonic()
    for number in range(scale.chats):
        source = random.Random(f"chat/{seed}/{number}")
        prompt = draw_prompt(source, scale.chat_prompt, vocab_size=scale.vocab_size)
        chats[str(number)] = _Chat(prompt, scale.chat_turns, source)
        due.append((began + source.random() * scale.think, str(number)))
    heapq.heapify(due)
    ttft: list[float] = []
    while due or engine.has_work:
        now = time.monotonic()
        while due and due[0][0] <= now:
            when, name = heapq.heappop(due)
            chats[name].due, chats[name].waiting = when, True
            engine.add(
                GenerationRequest(
                    request_id=f"{seed}/{name}/{chats[name].turns}",
                    prompt_token_ids=tuple(chats[name].prompt), sampling=_SAMPLING,
                    arrival=now, session_id=f"{seed}/{name}",
                )
            )  # fmt: skip
        if not engine.has_work:
            engine.tend()
            time.sleep(min(0.005, max(0.0, due[0][0] - now)))
            continue
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            name = delta.request_id.split("/")[-2]
            chat = chats[name]
            if chat.waiting and delta.token_ids:
                chat.waiting = False
                ttft.append(time.monotonic() - chat.due)
            chat.reply += delta.token_ids
            if delta.finish_reason is not None and _next_turn(chat, scale):
                pause = chat.source.expovariate(1 / scale.think)
                heapq.heappush(due, (time.monotonic() + pause, name))
        if engine.blocked:
            engine.wait_for_transfers(0.01)
    return time.monotonic() - began, ttft


def _next_turn(chat: _Chat, scale: Scale) -> bool:
    chat.prompt += chat.reply
    chat.prompt += draw_prompt(chat.source, TURN, vocab_size=scale.vocab_size)
    chat.reply = []
    chat.turns -= 1
    return chat.turns > 0
