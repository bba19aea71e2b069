"""Policies, capacities and codecs side by side over one trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName
from stepwell.base.units import parse_bytes
from stepwell.cache.settings import HierarchySettings, TierSpec
from stepwell.simulate.machine import SHAPES, Machine, Shape, make_machine
from stepwell.simulate.replay import ReplayResult, Scenario, distinct_blocks, replay, single_tier
from stepwell.simulate.synthetic import SyntheticTrace
from stepwell.simulate.trace import Trace, read_requests

OnRun = Callable[[str, int, int], None]
"""(what runs, requests done, requests in all)"""


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """`ratio`: raw bytes over stored bytes. `speed`: stored bytes decoded a second, 0: no limit."""

    name: str = "raw"
    ratio: float = 1.0
    speed: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """`capacities`: shares of the trace's distinct blocks (single tier, instant links), used when
    `tiers` is empty. `tiers`: bytes by tier, with real links. `device`: bytes of the device's own
    cache, with `tiers` only."""

    policies: tuple[str, ...]
    capacities: tuple[float, ...] = ()
    tiers: tuple[tuple[TierName, int], ...] = ()
    codecs: tuple[CodecChoice, ...] = (CodecChoice(),)
    hardware: str = "h100"
    model: str = "llama-3.1-8b"
    device: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario and what came of it. `seconds`: of simulating."""

    label: str
    capacity: float | None
    codec: str
    result: ReplayResult
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "policy": self.result.policy, "capacity": self.capacity, "codec": self.codec,
            **self.result.as_dict(), "simulated_in_s": round(self.seconds, 2),
        }  # fmt: skip


def open_trace(name: str, *, limit: int = 0) -> Trace:
    """A file, or `synthetic:COUNT`. Raises ConfigError."""
    kind, _, count = name.partition(":")
    if kind == "synthetic" and count:
        if not count.isdigit() or not int(count):
            raise ConfigError(f"{count!r} is no count.", hint="synthetic:100000", param="trace")
        made = SyntheticTrace(total=min(int(count), limit) if limit else int(count))
        return Trace(name, made.block_tokens, made)
    return read_requests(Path(name), limit=limit)


def compare(
    trace: Trace, wanted: Comparison, *, on_run: OnRun = lambda *_: None
) -> tuple[list[Run], int]:
    """All runs in order, and the distinct blocks of the trace. Raises ConfigError."""
    shape = _shape(wanted.model)
    machine = make_machine(wanted.hardware, shape)
    distinct = distinct_blocks(trace.requests)
    runs = []
    for codec in wanted.codecs:
        for capacity in wanted.capacities if not wanted.tiers else (None,):
            for policy in wanted.policies:
                if policy == "belady" and isinstance(trace.requests, SyntheticTrace):
                    raise ConfigError(
                        "belady needs the whole trace in memory.",
                        hint="Leave it out for synthetic traces.", param="policy",
                    )  # fmt: skip
                label = f"{policy} {codec.name} {capacity or ''}".strip()
                scenario = _scenario(
                    trace, wanted, policy=policy, capacity=capacity, codec=codec,
                    machine=machine, raw=shape.kv_bytes * trace.block_tokens, distinct=distinct,
                )  # fmt: skip
                runs.append(_run(trace, scenario, label, capacity, codec.name, on_run))
    return runs, distinct


def parse_codec(text: str) -> CodecChoice:
    """`raw` or NAME=RATIO[@SPEED], such as `lossless=1.4@3GiB`. Raises ConfigError."""
    name, _, rest = text.partition("=")
    if not rest:
        return CodecChoice(name)
    ratio, _, speed = rest.partition("@")
    try:
        return CodecChoice(name, float(ratio), float(parse_bytes(speed)) if speed else 0.0)
    except ValueError as error:
        raise ConfigError(
            f"cannot read codec {text!r}.", hint="NAME=RATIO@SPEED, lossless=1.4@3GiB",
            param="codec",
        ) from error  # fmt: skip


def parse_tier(text: str) -> tuple[TierName, int]:
    """`host=64GiB`. Raises ConfigError."""
    name, _, size = text.partition("=")
    if name.upper() not in ("HOST", "DISK", "REMOTE") or not size:
        raise ConfigError(
            f"cannot read tier {text!r}.", hint="host=64GiB, disk=1TiB or remote=4TiB",
            param="tier",
        )  # fmt: skip
    return TierName[name.upper()], parse_bytes(size)


def _shape(name: str) -> Shape:
    if name not in SHAPES:
        raise ConfigError(
            f"unknown model {name!r}.", hint=f"Valid: {', '.join(SHAPES)}.", param="model"
        )
    return SHAPES[name]


def _scenario(
    trace: Trace, wanted: Comparison, *, policy: str, capacity: float | None,
    codec: CodecChoice, machine: Machine, raw: int, distinct: int,
) -> Scenario:  # fmt: skip
    stored = max(1, round(raw / codec.ratio))
    if capacity is not None:
        tiers = single_tier(max(1, int(capacity * distinct)) * raw)
    else:
        tiers = tuple(
            TierSpec(name=name, capacity_bytes=size, shared=name is TierName.REMOTE,
                     persistent=name is not TierName.HOST)
            for name, size in wanted.tiers
        )  # fmt: skip
    return Scenario(
        policy=policy, tiers=tiers, chunk_tokens=trace.block_tokens, chunk_bytes=stored,
        machine=machine.with_codec(speed=codec.speed), instant=capacity is not None,
        device_chunks=0 if capacity is not None else wanted.device // raw,
        settings=HierarchySettings(),
    )  # fmt: skip


def _run(
    trace: Trace, scenario: Scenario, label: str, capacity: float | None, codec: str,
    on_run: OnRun,
) -> Run:  # fmt: skip
    began = time.perf_counter()
    total = len(trace.requests)
    result = replay(trace.requests, scenario, progress=lambda done: on_run(label, done, total))
    return Run(label, capacity, codec, result, time.perf_counter() - began)
