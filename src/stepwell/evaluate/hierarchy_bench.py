"""What the lower tiers are worth: `stepwell bench hierarchy`.

Everything goes through the real engine, in this process, and the restore decisions are the brain's
own. Each tier is measured alone, below a device pool that has forgotten the prompt: time to first
token restored against computed, in turn.

Tokens after a restore are compared with those after a hit in the device's own prefix cache, whose
bytes never left: they must be the same. A prompt computed in one go may differ from both by a
rounding of bfloat16 (its last token is computed in other company); such tokens are counted apart.
"""

from __future__ import annotations

import enum
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stepwell.engine.llm import LLM
from stepwell.evaluate.brain_bench import BrainScale, run_brain_bench
from stepwell.evaluate.ceiling import measure_ceiling
from stepwell.evaluate.hierarchy_chat import ChatLoad, run_chats, run_thinking_chats
from stepwell.evaluate.hierarchy_codecs import run_codecs
from stepwell.evaluate.hierarchy_engine import (
    differences,
    first_token,
    random_prompt,
    restored_tokens,
    settle,
)
from stepwell.evaluate.hierarchy_restart import RestartResult, run_restart
from stepwell.evaluate.hierarchy_sick import SickEngines, sick_speeds, sick_tokens
from stepwell.evaluate.local_redis import binary, serve_redis
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.statistics import median

Say = Callable[[str], None]


class Section(enum.Enum):
    """Parts that can be measured alone."""

    RESTORE = "restore"
    SICK = "sick"
    CODECS = "codecs"
    CHATS = "chats"
    BRAIN = "brain"


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchyOptions:
    """`sections`: what to measure. `prompt`: tokens of a returning session. `repeats`: sessions for
    each tier. `sick`: turns for each fault, `sick_compared`: those whose tokens are compared.
    `brain`: how many chunks and sessions the brain is filled with. `chats`: None leaves the
    interleaved chats out. `kill_server`: also kill a real server and start it again. `pool`,
    `host`: bytes of the device pool and of the host tier, as in the settings."""

    folder: Path
    pool: str = "256MiB"
    host: str = "512MiB"
    sections: tuple[Section, ...] = tuple(Section)
    prompt: int = 2048
    repeats: int = 5
    sick: int = 12
    sick_prompt: int = 1024
    sick_compared: int = 6
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
    result: dict[str, Any] = {"ceiling": asdict(measure_ceiling(quick=True)), "wrong_tokens": 0}
    sections = {
        Section.RESTORE: _restores,
        Section.SICK: _sick,
        Section.CODECS: _codecs,
        Section.CHATS: _chats,
        Section.BRAIN: _brain,
    }
    for section in options.sections:
        figures = sections[section](options, say)
        result["wrong_tokens"] += figures.pop("wrong", 0)
        result |= figures
    return result


def _restores(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        tiers = _returning_sessions(options, Path(folder), say)
    result: dict[str, Any] = {"wrong": sum(found.wrong for found in tiers.values())}
    for name, found in tiers.items():
        result |= {f"ttft_speedup_{name}": found.speedup, name: asdict(found)}
    if options.kill_server:
        killed = _killed_server(options, say)
        result |= {"ttft_speedup_server_restart": killed.speedup, "server_restart": asdict(killed)}
        result["wrong"] += killed.wrong
    if "network" not in tiers:
        result["ttft_speedup_network"] = None
        result["ttft_speedup_network_reason"] = "no valkey-server or redis-server is installed"
    return result


def _sick(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    engines = SickEngines(folder=options.folder, pool=options.pool, host=options.host)
    rows = sick_speeds(engines, turns=options.sick, prompt_tokens=options.sick_prompt, say=say)
    result: dict[str, Any] = {
        "sick": rows,
        "wrong": sick_tokens(
            engines, turns=options.sick_compared, prompt_tokens=options.sick_prompt, say=say
        ),
    }
    for quantile in ("p50", "p99"):
        ratios = [row[f"{quantile}_ratio"] for row in rows.values()]
        result[f"sick_tier_{quantile}_ratio"] = max(ratios)
    return result


def _codecs(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    rows = run_codecs(
        options.folder, options.workdir, pool=options.pool, prompt=options.prompt,
        sessions=options.repeats, say=say,
    )  # fmt: skip
    exact = sum(rows[name]["other"] for name in ("raw", "lossless"))
    return {"codecs": rows, "wrong": exact}


def _chats(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    if options.chats is None:
        return {}
    in_turn = run_chats(options.folder, options.chats, say=say)
    thinking = run_thinking_chats(options.folder, options.chats, say=say)
    return {"chats": in_turn, "thinking_chats": thinking, "wrong": in_turn["wrong"]}


def _brain(options: HierarchyOptions, say: Say) -> dict[str, Any]:
    """In a process of its own: bytes a chunk are read off its resident memory, and this one would
    reuse what the engines have freed."""
    say(f"brain: {options.brain.chunks:,} chunks, {options.brain.sessions:,} sessions")
    with get_context("spawn").Pool(1) as process:
        brain: dict[str, Any] = process.apply(run_brain_bench, (options.brain,))
    return {
        "brain": brain,
        "plan_p99_ms_1m_chunks": brain["plan_p99_ms"],
        "bytes_per_chunk": brain["bytes_per_chunk"],
    }


# --- returning sessions -------------------------------------------------------------------------


def _returning_sessions(options: HierarchyOptions, folder: Path, say: Say) -> dict[str, TierResult]:
    results: dict[str, TierResult] = {}
    say("host tier")
    results["host"] = _one_tier(options, {"tiers__host": options.host}, _nothing)
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
    llm = LLM(str(options.folder), cache__pool=options.pool, **settings)
    result = TierResult()
    for number in range(options.repeats + 1):
        prompt = random_prompt(llm, options.prompt, seed=number)
        computed, first = first_token(llm, prompt)
        _, expected = first_token(llm, prompt)
        settle(llm)
        llm.built.engine.clear_cache()
        cool()
        before = restored_tokens(llm)
        restored, tokens = first_token(llm, prompt)
        settle(llm)
        if number:
            result.computed.append(computed)
            result.restored.append(restored)
            result.tokens_restored += restored_tokens(llm) - before
        result.expected.append(expected)
        result.wrong += differences(expected, tokens)
        result.rounding += differences(first, expected)
        llm.built.engine.clear_cache()
    llm.close()
    return result


def _after_restart(
    options: HierarchyOptions, settings: dict[str, Any], folder: Path, before: TierResult
) -> TierResult:
    """A new engine on the same folder meets the sessions of the old one."""
    llm = LLM(str(options.folder), cache__pool=options.pool, **settings)
    drop_page_cache(folder)
    result = TierResult(computed=list(before.computed))
    for number in range(options.repeats + 1):
        prompt = random_prompt(llm, options.prompt, seed=number)
        seconds, tokens = first_token(llm, prompt)
        settle(llm)
        if number:
            result.restored.append(seconds)
        result.wrong += differences(before.expected[number], tokens)
    result.tokens_restored = restored_tokens(llm)
    llm.close()
    return result


def _killed_server(options: HierarchyOptions, say: Say) -> RestartResult:
    say("a server with a disk tier, killed and started again")
    with tempfile.TemporaryDirectory(dir=options.workdir) as folder:
        return run_restart(
            options.folder, Path(folder), prompt=options.prompt, repeats=options.repeats,
            vocabulary=_vocabulary(options.folder),
        )  # fmt: skip


def _vocabulary(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"])


def _nothing() -> None:
    """Memory cannot be cooled."""
