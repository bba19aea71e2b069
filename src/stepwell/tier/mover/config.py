"""Settings and counters of the mover."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.base.hierarchy import Failure, TierName
from stepwell.tier.breaker import BreakerConfig, BreakerState


class Access(enum.Enum):
    """Whether a tier's own calls may touch device blocks (see the package's docstring)."""

    DIRECT = "direct"  # only for tiers whose calls take no longer than a memcpy
    STAGED = "staged"


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """One tier's threads and bounds.

    `access`: None chooses DIRECT for the host arena, STAGED for everything else.
    `store_backlog`: bytes of stores and moves that may wait or run; more are refused with FULL.
    `batch_bytes`: loads that may go to the tier in one call, where it has `read_batch`.
    `stall_seconds`: an operation that takes longer is taken for hung: its order is reported as
    DEADLINE and the breaker opens.
    `flush_seconds`: a staged tier that has nothing to do is flushed once, so long after a store.
    """

    threads: int = 1
    access: Access | None = None
    store_backlog: int = 256 << 20
    batch_bytes: int = 1 << 20
    stall_seconds: float = 30.0
    flush_seconds: float = 1.0
    breaker: BreakerConfig = field(default_factory=BreakerConfig)

    def __post_init__(self) -> None:
        if self.threads < 1 or self.store_backlog < 0 or self.stall_seconds <= 0:
            raise ValueError("threads >= 1, store_backlog >= 0 and stall_seconds > 0 are needed")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneUsage:
    """One tier at this moment. Bytes and counts since the start where not said otherwise.

    `open_orders`, `backlog`, `busy_threads`, `late_threads`: now. A late thread is still busy with
    an order that has been reported. `refused_headers`: values that were whole but not ours.
    """

    open_orders: int
    backlog: int
    busy_threads: int
    late_threads: int
    pending_evictions: int
    breaker: BreakerState
    loaded_bytes: int
    stored_bytes: int
    done: int
    failed: Mapping[Failure, int]
    refused_headers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoverUsage:
    """All lanes, and bytes of scratch memory that the threads hold."""

    lanes: Mapping[TierName, LaneUsage]
    scratch_bytes: int
