"""What the hierarchy has done, as plain data for metrics, `--explain` and the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.base.decisions import Decision
from stepwell.base.hierarchy import TierName


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """Gauges and counters of one tier. Sizes in bytes, the rest in chunks. `used` includes what
    is on its way there. `refused`: not stored, for want of room, worth or quota. `dropped`:
    evicted while no other lower tier had it. `returned_evicted`: asked for again after that.
    `kept_exact`: chunks that its lossy codec would not take. `load_seconds`: expected for one
    chunk, 0.0 before the first measurement."""

    capacity: int
    used: int
    chunks: int
    healthy: bool
    loads: int
    stores: int
    bytes_loaded: int
    bytes_stored: int
    evictions: int
    dropped: int
    failures: int
    refused: int
    kept_exact: int
    expected_chunk_bytes: int
    load_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerStats:
    """Sums over all plans whose loads have ended. Seconds unless it says otherwise.

    `seconds_saved`: recompute expected less load measured, of what arrived. `seconds_lost`:
    recompute expected of known chunks that no tier had any more (the price of evictions).
    `regret`: by how much restores took longer than recomputing was expected to.
    """

    plans: int = 0
    loads: int = 0
    splits: int = 0
    probes: int = 0
    chunks_loaded: int = 0
    chunks_failed: int = 0
    seconds_predicted: float = 0.0
    seconds_actual: float = 0.0
    seconds_saved: float = 0.0
    seconds_lost: float = 0.0
    regret: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowResult:
    """What a cache of another size or policy would have hit, on sampled chunks. `scale`: capacity
    as a multiple of the real one. `hit_rate`: of the sampled chunk lookups."""

    policy: str
    scale: float
    lookups: int
    hits: int

    @property
    def hit_rate(self) -> float:
        """0.0 before the first lookup."""
        return self.hits / self.lookups if self.lookups else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchyStats:
    """Gauges and counters since the start. `tiers`: by tier. `unknown_reports`: reports of orders
    that were not open. `chunk_recompute_seconds`: expected for the first chunk of a prompt, 0.0
    before the first measurement."""

    tiers: Mapping[TierName, TierStats]
    ledger: LedgerStats
    chunks: int
    sessions: int
    open_orders: int
    promotions: int
    expired: int
    unknown_reports: int
    chunk_recompute_seconds: float = 0.0
    shadows: tuple[ShadowResult, ...] = ()
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
