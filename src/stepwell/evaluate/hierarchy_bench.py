"""What the lower tiers are worth: `stepwell bench hierarchy`.

Everything goes through the real engine, in this process, and the restore decisions are the brain's
own. Each tier is measured alone, below a device pool that has forgotten the prompt: time to first
token restored against computed, in turn.

Tokens after a restore are compared with those after a hit in the device's own prefix cache, whose
bytes never left: they must be the same. A prompt computed in one go may differ from both by a
rounding of bfloat16 (its last token is computed in other company); such tokens are counted apart.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stepwell.base.hierarchy import TierName
from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
from stepwell.evaluate.brain_bench import BrainScale, run_brain_bench
from stepwell.evaluate.ceiling import measure_ceiling
from stepwell.evaluate.hierarchy_chat import ChatLoad, run_chats, run_thinking_chats
from stepwell.evaluate.hierarchy_restart import run_restart
from stepwell.evaluate.local_redis import binary, serve_redis
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.statistics import median, percentile
from stepwell.tier.contract import Tier
from stepwell.tier.faulty import Faults, FaultyTier

Say = Callable[[str], None]
_OUTPUT = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
_SETTLE_SECONDS = 60.0
_HOST = "512MiB"
FAULTS = {
    "throttled to 20 MB/s": Faults(bytes_per_second=20e6),
    "stalls (30 %)": Faults(hang=0.3, hang_seconds=2.0, seed=1),
    "fails (30 %)": Faults(fail_read=0.3, fail_write=0.3, seed=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchyOptions:
    """`prompt`: tokens of a returning session. `repeats`: sessions for each tier. `sick`: turns for
    each fault. `brain`: how many chunks and sessions the brain is filled with. `chats`: None
    leaves the interleaved chats out. `kill_server`: also kill a real server and start it again."""

    folder: Path
    prompt: int = 2048
    repeats: int = 5
    sick: int = 12
    sick_prompt: int = 1024
    brain: BrainScale = field(default_factory=BrainScale)
    chats: ChatLoad | None = None
    kill_server: bool = False
    workdir: Path | None = None


@dataclass(slots=True)
class TierResult:
    """Seconds to the first token, prompt by prompt. `wrong`: tokens that differ from a hit on the
    device. `rounding`: tokens of such a hit that differ from the first, computed reply. `expected`:
    the tokens of those hits, the warm-up's first."""

    computed: list[float] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)
    tokens_restored: int = 0
    wrong: int = 0
    rounding: int = 0
    expected: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def speedup(self) -> float:
        """Median computed over median restored."""
        return median(self.computed) / median(self.restored)


def run_hierarchy_bench(options: HierarchyOptions, *, say: Say) -> dict[str, Any]:
    """All figures by name. Raises OSError, StepwellError."""
    say("ceiling")
    ceiling = measure_ceiling(quick=True)
    result: dict[str, Any] = {"ceiling": asdict(ceiling), "wrong_tokens": 0}
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        tiers = _returning_sessions(options, Path(folder), say)
    for name, found in tiers.items():
        result[f"ttft_speedup_{name}"] = found.speedup
        result[name] = asdict(found)
        result["wrong_tokens"] += found.wrong
    if options.kill_server:
        result |= _killed_server(options, say)
        result["wrong_tokens"] += result["server_restart"]["wrong"]
    if "network" not in tiers:
        result["ttft_speedup_network"] = None
        result["ttft_speedup_network_reason"] = "no valkey-server or redis-server is installed"
    sick, wrong = _sick_tiers(options, say)
    result["sick"] = sick
    result["wrong_tokens"] += wrong
    for quantile in ("p50", "p99"):
        ratios = [row[f"{quantile}_ratio"] for row in sick.values()]
        result[f"sick_tier_{quantile}_ratio"] = max(ratios)
    if options.chats is not None:
        say(f"{options.chats.sessions} interleaved chats")
        result["chats"] = run_chats(options.folder, options.chats, say=say)
        result["thinking_chats"] = run_thinking_chats(options.folder, options.chats, say=say)
    say(f"brain: {options.brain.chunks:,} chunks, {options.brain.sessions:,} sessions")
    # A process of its own: bytes a chunk are read off its resident memory, and this one would
    # reuse what the engines have freed.
    with get_context("spawn").Pool(1) as process:
        brain: dict[str, Any] = process.apply(run_brain_bench, (options.brain,))
    result["brain"] = brain
    result["plan_p99_ms_1m_chunks"] = brain["plan_p99_ms"]
    result["bytes_per_chunk"] = brain["bytes_per_chunk"]
    return result


# --- returning sessions -------------------------------------------------------------------------


def _returning_sessions(options: HierarchyOptions, folder: Path, say: Say) -> dict[str, TierResult]:
    results: dict[str, TierResult] = {}
    say("host tier")
    results["host"] = _one_tier(options, {"tiers__host": _HOST}, _nothing)
    disk: dict[str, Any] = {"tiers__disk": str(folder / "disk"), "tiers__disk_capacity": "4GiB"}
    say("disk tier")
    results["disk"] = _one_tier(options, disk, lambda: drop_page_cache(folder / "disk"))
    say("disk tier, after a restart")
    results["disk_restart"] = _after_restart(options, disk, folder / "disk", results["disk"])
    if binary() is not None:
        say("network tier")
        with ExitStack() as stack:
            url = stack.enter_context(serve_redis(folder))
            results["network"] = _one_tier(options, {"tiers__remote": url}, _nothing)
    return results


def _one_tier(
    options: HierarchyOptions, settings: dict[str, Any], cool: Callable[[], None]
) -> TierResult:
    """Computed and restored in turn. The first session is a warm-up: the brain has measured
    nothing but its start-up probe until then."""
    llm = LLM(str(options.folder), cache__pool="256MiB", **settings)
    result = TierResult()
    for number in range(options.repeats + 1):
        prompt = _prompt(llm, options.prompt, seed=number)
        computed, first = first_token(llm, prompt)
        _, expected = first_token(llm, prompt)
        settle(llm)
        llm.built.engine.clear_cache()
        cool()
        before = _restored(llm)
        restored, tokens = first_token(llm, prompt)
        settle(llm)
        if number:
            result.computed.append(computed)
            result.restored.append(restored)
            result.tokens_restored += _restored(llm) - before
        result.expected.append(expected)
        result.wrong += _differences(expected, tokens)
        result.rounding += _differences(first, expected)
        llm.built.engine.clear_cache()
    llm.close()
    return result


def _after_restart(
    options: HierarchyOptions, settings: dict[str, Any], folder: Path, before: TierResult
) -> TierResult:
    """A new engine on the same folder meets the sessions of the old one."""
    llm = LLM(str(options.folder), cache__pool="256MiB", **settings)
    drop_page_cache(folder)
    result = TierResult(computed=list(before.computed))
    for number in range(options.repeats + 1):
        prompt = _prompt(llm, options.prompt, seed=number)
        seconds, tokens = first_token(llm, prompt)
        settle(llm)
        if number:
            result.restored.append(seconds)
        result.wrong += _differences(before.expected[number], tokens)
    result.tokens_restored = _restored(llm)
    llm.close()
    return result


def _killed_server(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    say("a server with a disk tier, killed and started again")
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        found = run_restart(
            options.folder, Path(folder), prompt=options.prompt, repeats=options.repeats,
            vocabulary=_vocabulary(options.folder),
        )  # fmt: skip
    return {"ttft_speedup_server_restart": found.speedup, "server_restart": asdict(found)}


def _vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


# --- never slower -------------------------------------------------------------------------------


def _sick_tiers(options: HierarchyOptions, say: Say) -> tuple[dict[str, dict[str, float]], int]:
    """Sessions that return, with a sick host tier and without tiers, request by request."""
    rows: dict[str, dict[str, float]] = {}
    wrong = 0
    off = LLM(str(options.folder), cache__pool="256MiB")
    for name, faults in FAULTS.items():
        say(f"sick tier: {name}")
        sick: list[FaultyTier] = []
        on = LLM(
            str(options.folder), wrap_tier=_wrap(faults, sick), cache__pool="256MiB",
            tiers__host=_HOST,
        )  # fmt: skip
        times: dict[str, list[float]] = {"off": [], "on": []}
        for number in range(options.sick + 1):
            prompt = _prompt(off, options.sick_prompt, seed=1000 + number // 3)
            answers = []
            order = [("off", off), ("on", on)]
            for label, llm in order if number % 2 else reversed(order):
                llm.built.engine.clear_cache()
                seconds, tokens = first_token(llm, prompt)
                answers.append(tokens)
                if number:
                    times[label].append(seconds)
            wrong += _differences(*answers)
        rows[name] = {
            "n": float(options.sick),
            "p50_ratio": median(times["on"]) / median(times["off"]),
            "p99_ratio": percentile(times["on"], 99) / percentile(times["off"], 99),
            "restored_tokens": float(_restored(on)),
        }
        for tier in sick:  # what still waits to be stored would wait for each stall
            tier.faults = Faults()
        on.close()
    return rows, wrong


def _wrap(faults: Faults, made: list[FaultyTier]) -> Callable[[TierName, Tier], Tier]:
    """Makes tiers sick; `made` gets them."""

    def wrap(name: TierName, tier: Tier) -> Tier:
        made.append(FaultyTier(tier, faults))
        return made[-1]

    return wrap


# --- parts --------------------------------------------------------------------------------------


def first_token(llm: LLM, prompt: Sequence[int]) -> tuple[float, tuple[int, ...]]:
    """Seconds to the first token of one request, and its tokens."""
    engine = llm.built.engine
    start = time.monotonic()
    engine.add(
        GenerationRequest(
            request_id=f"bench-{start}",
            prompt_token_ids=tuple(prompt),
            sampling=_OUTPUT,
            arrival=start,
        )
    )
    tokens: tuple[int, ...] = ()
    first = 0.0
    while engine.has_work:
        for delta in engine.step():
            if delta.error is not None:
                raise delta.error
            tokens += delta.token_ids
            first = first or time.monotonic() - start
        if engine.blocked:
            engine.wait_for_transfers(0.25)
    return first, tokens


def settle(llm: LLM) -> None:
    """Wait until every transfer has ended and what a tier has is on its medium."""
    engine, opened = llm.built.engine, llm.built.open_tiers
    if engine.tiers is None or opened is None:
        return
    deadline = time.monotonic() + _SETTLE_SECONDS
    while engine.tiers.hierarchy.stats().open_orders and time.monotonic() < deadline:
        engine.wait_for_transfers(0.05)
        engine.tend()
    for store in opened.stores.values():
        store.flush()


def _nothing() -> None:
    """Memory cannot be cooled."""


def _prompt(llm: LLM, length: int, *, seed: int) -> list[int]:
    """Tokens that no other seed begins with."""
    import random

    rng = random.Random(seed)
    return [rng.randrange(16, llm.built.info.vocab_size) for _ in range(length)]


def _restored(llm: LLM) -> int:
    tiers = llm.built.engine.tiers
    return 0 if tiers is None else tiers.restored_tokens


def _differences(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(a != b for a, b in zip(first, second, strict=True))
