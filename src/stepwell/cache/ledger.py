"""What was predicted and what came of it: one Decision a plan, and the sums over all of them.

A plan's loads form one group a tier. When the last report of a group is in, the time from the order
to that report is what the request saw, and what the tier's cost model learns from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stepwell.base.decisions import Decision
from stepwell.base.hierarchy import Failure, LoadChunk, TierName, TransferReport
from stepwell.base.tier_stats import LedgerStats
from stepwell.cache.books import TierBooks
from stepwell.cache.plan import RestoreMode, RestorePlan

_KEPT = 256


@dataclass(slots=True)
class _Load:
    """The loads of one plan. `open`: orders without a report; `ok`: chunks that arrived."""

    plan: RestorePlan
    since: float
    open: int
    ok: int = 0
    failed: int = 0
    last: float = 0.0


@dataclass(slots=True)
class _Group:
    """The loads of one plan from one tier. `ahead`: bytes queued before them. `last`: when the
    last one arrived. `cut_at`: when one missed its deadline (None: none did), so the whole would
    have taken at least until then."""

    load: _Load
    ahead: int
    size: int
    open: int
    arrived: int = 0
    last: float = 0.0
    cut_at: float | None = None


class Ledger:
    """Owned by `Hierarchy`. Keeps the last few hundred decisions."""

    def __init__(self, books: Mapping[TierName, TierBooks]) -> None:
        self._books = books
        self._groups: dict[int, _Group] = {}
        self.sums = LedgerStats()
        self.decisions: deque[Decision] = deque(maxlen=_KEPT)

    def note(self, decision: Decision) -> None:
        """Keep a decision that no load belongs to."""
        self.decisions.append(decision)

    def begin(
        self, plan: RestorePlan, orders: Sequence[LoadChunk], ahead: Mapping[TierName, int],
        *, lost: float, now: float,
    ) -> None:  # fmt: skip
        """A plan begins; `ahead`: bytes in flight per tier before its orders; `lost`: seconds of
        recomputing known chunks that are in no tier."""
        sums = self.sums
        self.sums = replace(
            sums,
            plans=sums.plans + 1,
            loads=sums.loads + (plan.mode is RestoreMode.LOAD),
            splits=sums.splits + (plan.mode is RestoreMode.SPLIT and not plan.probe),
            probes=sums.probes + plan.probe,
            seconds_lost=sums.seconds_lost + lost,
        )
        if not orders:
            self.note(plan.decision)
            return
        load = _Load(plan, now, len(orders))
        groups: dict[TierName, _Group] = {}
        for order in orders:
            group = groups.get(order.tier)
            if group is None:
                group = groups[order.tier] = _Group(load, ahead[order.tier], 0, 0)
            group.size += order.size
            group.open += 1
            self._groups[order.order_id] = group

    def report(self, event: TransferReport, tier: TierName) -> None:
        """One load has ended."""
        group = self._groups.pop(event.order_id, None)
        if group is None:
            return
        load = group.load
        group.open -= 1
        load.open -= 1
        if event.failure is None:
            group.arrived += event.size
            group.last = load.last = event.now
            load.ok += 1
        else:
            load.failed += 1
            if event.failure is Failure.DEADLINE:
                group.cut_at = event.now
        if not group.open:
            self._learn(group, tier)
        if not load.open:
            self._settle(load)

    def _learn(self, group: _Group, tier: TierName) -> None:
        """What arrived is an observation. A missed deadline says only `at least`, so it may raise
        the estimate of the whole and never lowers it."""
        load, began = self._books[tier].load, group.load.since
        if group.arrived:
            load.observe(size=group.ahead + group.arrived, seconds=group.last - began)
        if group.cut_at is not None:
            size, seconds = group.ahead + group.size, group.cut_at - began
            if load.model_seconds(size) < seconds:
                load.observe(size=size, seconds=seconds)
        if group.arrived or group.cut_at is not None:
            self._books[tier].last_measured = began

    def _settle(self, load: _Load) -> None:
        plan, sums = load.plan, self.sums
        actual = max(0.0, load.last - load.since) if load.ok else 0.0
        share = load.ok / (load.ok + load.failed)
        waited = actual if plan.mode is RestoreMode.LOAD else 0.0
        gain = share * plan.recompute_seconds - waited
        self.decisions.append(plan.decision.with_actual(actual))
        self.sums = replace(
            sums,
            chunks_loaded=sums.chunks_loaded + load.ok,
            chunks_failed=sums.chunks_failed + load.failed,
            seconds_predicted=sums.seconds_predicted + plan.load_seconds,
            seconds_actual=sums.seconds_actual + actual,
            seconds_saved=sums.seconds_saved + gain,
            regret=sums.regret + max(0.0, -gain),
        )
