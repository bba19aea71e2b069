"""What a run of `stepwell bench serve` is to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.evaluate.arrival import Arrival
from stepwell.evaluate.loadgen import Slo
from stepwell.evaluate.workload import REFERENCE_SEED, Mix

SECTIONS = ("memory", "throughput", "budget", "ttft", "http", "load", "soak")
"""In the order they run. `soak` runs when asked for."""
DEFAULT_SECTIONS = SECTIONS[:-1]
QUICK_SECTIONS = ("memory", "throughput", "ttft", "http", "load")
QUICK_SECONDS = 44.0
"""What a quick run plans with, of the 50 seconds that it may take."""


UNTIL = {"throughput": 0.6, "budget": 1.0, "http": 0.84, "load": 0.98}
"""The share of the planned time by which a section begins no further round."""
SETTINGS: dict[str, Any] = {"cache.pool": "512MiB"}
"""Of every engine here: several live side by side, and `auto` would give each half the memory."""
COLUMNS = ("what", "measured", "ceiling", "share")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """All choices of one run. `rounds`: how often each contestant has its turn. `rate` 0: 0.6 of
    the requests a second that the offline engine reached. `static_reserve`: tokens of KV that a
    row of a static batch reserves, 0: the longest prompt plus the longest output. `seconds`: plan
    for the whole run; repetitions that would exceed it are left out. `environments`: where
    rivals are installed."""

    model: str = "house"
    quick: bool = False
    sections: tuple[str, ...] = DEFAULT_SECTIONS
    rounds: int = 2
    requests: int = 32
    prompt: tuple[int, int] = (64, 768)
    output: tuple[int, int] = (16, 256)
    seed: int = REFERENCE_SEED
    batches: tuple[int, ...] = (8, 32)
    static_reserve: int = 0
    rivals: tuple[str, ...] = ("transformers-static",)
    ttft_prompt: int = 2048
    concurrency: int = 32
    arrival: Arrival = Arrival.POISSON
    rate: float = 0.0
    burstiness: float = 1.0
    load_requests: int = 100
    trace: Path | None = None
    length_scale: float = 1.0
    time_scale: float = 1.0
    slo: Slo = field(default_factory=Slo)
    soak: int = 0
    url: str = ""
    api_key: str = ""
    seconds: float = math.inf
    workdir: Path = Path("~/.cache/stepwell/bench")
    environments: Path = Path("~/.cache/stepwell/rivals")
    settings: dict[str, Any] = field(default_factory=lambda: dict(SETTINGS))

    def mix(self, *, vocab_size: int) -> Mix:
        """The mix of lengths that throughput is measured on."""
        return Mix(
            count=self.requests,
            prompt=self.prompt,
            output=self.output,
            vocab_size=vocab_size,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True)
class Section:
    """One finished part: a table for people and figures for programs."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    figures: dict[str, Any]
    notes: tuple[str, ...] = ()


OnSection = Callable[[Section], None]
OnProgress = Callable[[str], None]
