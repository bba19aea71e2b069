"""Never slower, never wrong: a sick host tier against no tiers, request by request.

Speeds are measured in the model's own dtype. Tokens are compared in float32, where no rounding of a
prompt that was computed in other pieces reaches a token: every difference counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.hierarchy import TierName
from stepwell.engine.llm import LLM
from stepwell.evaluate.hierarchy_engine import (
    differences,
    first_token,
    forget,
    random_prompt,
    restored_tokens,
)
from stepwell.evaluate.statistics import median, percentile
from stepwell.tier.contract import Tier
from stepwell.tier.faulty import Faults, FaultyTier

Say = Callable[[str], None]
FAULTS = {
    "throttled to 20 MB/s": Faults(bytes_per_second=20e6),
    "stalls (30 %)": Faults(hang=0.3, hang_seconds=2.0, seed=1),
    "fails (30 %)": Faults(fail_read=0.3, fail_write=0.3, seed=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SickEngines:
    """Engines without tiers and with a sick host tier, equal otherwise."""

    folder: Path
    pool: str
    host: str

    def off(self, **settings: Any) -> LLM:
        """Without tiers."""
        return LLM(str(self.folder), cache__pool=self.pool, **settings)

    @contextmanager
    def on(self, faults: Faults, **settings: Any) -> Iterator[tuple[LLM, list[FaultyTier]]]:
        """Above a sick host tier, which is well again when it is closed: what still waits to be
        stored would wait for each stall."""
        made: list[FaultyTier] = []
        llm = LLM(str(self.folder), wrap_tier=_wrap(faults, made), cache__pool=self.pool,
                  tiers__host=self.host, **settings)  # fmt: skip
        yield llm, made
        for tier in made:
            tier.faults = Faults()
        llm.close()


def sick_speeds(
    engines: SickEngines, *, turns: int, prompt_tokens: int, say: Say
) -> dict[str, dict[str, float]]:
    """Sessions that return, with a sick host tier and without tiers, request by request.
    `other_tokens`: of the replies, by the rounding of a prompt that was restored in part."""
    rows: dict[str, dict[str, float]] = {}
    off = engines.off()
    for name, faults in FAULTS.items():
        say(f"sick tier: {name}")
        with engines.on(faults) as (on, sick):
            times: dict[str, list[float]] = {"off": [], "on": []}
            other = 0
            for number in range(turns + 1):
                prompt = random_prompt(off, prompt_tokens, seed=1000 + number // 3)
                answers = []
                order = [("off", off), ("on", on)]
                for label, llm in order if number % 2 else reversed(order):
                    _forget(llm, sick, faults)
                    seconds, tokens = first_token(llm, prompt)
                    answers.append(tokens)
                    if number:
                        times[label].append(seconds)
                other += differences(*answers)
            rows[name] = {
                "n": float(turns),
                "p50_ratio": median(times["on"]) / median(times["off"]),
                "p99_ratio": percentile(times["on"], 99) / percentile(times["off"], 99),
                "restored_tokens": float(restored_tokens(on)),
                "other_tokens": float(other),
            }
    return rows


def sick_tokens(engines: SickEngines, *, turns: int, prompt_tokens: int, say: Say) -> int:
    """Tokens that a sick tier changes, `turns` replies for each fault, one engine for all faults.
    In float32, where no rounding of a prompt computed in other pieces reaches a token: every
    difference counts."""
    exact: dict[str, Any] = {"model__dtype": "float32"}
    off = engines.off(**exact)
    wrong = 0
    with engines.on(Faults(), **exact) as (on, sick):
        for name, faults in FAULTS.items():
            say(f"tokens under a sick tier: {name}")
            for number in range(turns):
                prompt = random_prompt(off, prompt_tokens // 4, seed=2000 + number // 2)
                _forget(off, sick, faults)
                _forget(on, sick, faults)
                wrong += differences(first_token(off, prompt)[1], first_token(on, prompt)[1])
    return wrong


def _wrap(faults: Faults, made: list[FaultyTier]) -> Callable[[TierName, Tier], Tier]:
    """Makes tiers sick; `made` gets them."""

    def wrap(name: TierName, tier: Tier) -> Tier:
        made.append(FaultyTier(tier, faults))
        return made[-1]

    return wrap


def _forget(llm: LLM, sick: list[FaultyTier], faults: Faults) -> None:
    """The device forgets all prompts. Sick tiers are well meanwhile, so that no hanging store holds
    blocks, and with them the device's copy."""
    for tier in sick:
        tier.faults = Faults()
    forget(llm)
    for tier in sick:
        tier.faults = faults
