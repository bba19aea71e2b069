"""The part of /metrics about lower tiers; nothing of it is there without them.

`seconds_saved` of the brain is a balance; here it is split into two counters that only grow:
saved (restores that paid) and regret (those that took longer than computing was expected to).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stepwell.base.request import EngineStats
from stepwell.base.tier_stats import HierarchyStats, LedgerStats, TierStats

_PER_TIER: tuple[tuple[str, str, Callable[[TierStats], float]], ...] = (
    ("tier_loaded_bytes", "Bytes that came from the tier.", lambda tier: tier.bytes_loaded),
    ("tier_stored_bytes", "Bytes that went to the tier.", lambda tier: tier.bytes_stored),
    ("tier_failures", "Transfers and lookups that failed.", lambda tier: tier.failures),
    ("tier_evictions", "Chunks evicted from the tier.", lambda tier: tier.evictions),
    (
        "tier_dropped",
        "Chunks evicted while no other lower tier had them.",
        lambda tier: tier.dropped,
    ),
    (
        "tier_refused",
        "Chunks not stored for want of room, worth or quota.",
        lambda tier: tier.refused,
    ),
    (
        "tier_kept_exact",
        "Chunks stored exactly, as a lossy codec's error would have exceeded the limit.",
        lambda tier: tier.kept_exact,
    ),
)


class TierPage:
    """Families of one scrape. `labels` go before those of each family."""

    def __init__(self, stats: EngineStats, labels: Mapping[str, str]) -> None:
        self._stats = stats
        self._names = list(labels)
        self._values = list(labels.values())

    def collect(self) -> Iterator[Metric]:
        """Nothing without lower tiers."""
        tiers = self._stats.tiers
        if tiers is not None:
            yield from self._gauges(tiers)
            yield from self._counters(tiers)
            yield from self._restores(tiers.ledger)
            yield from self._shadows(tiers)

    def _gauges(self, stats: HierarchyStats) -> Iterable[Metric]:
        size = self._gauge("tier_bytes", "Bytes of a tier; capacity 0: not ours.", "tier", "kind")
        chunks = self._gauge("tier_chunks", "Chunks of a tier, those arriving included.", "tier")
        healthy = self._gauge("tier_healthy", "0 while the breaker has switched it off.", "tier")
        load = self._gauge(
            "tier_load_seconds", "Expected to load one chunk; 0: never measured.", "tier"
        )
        compute = self._gauge("chunk_recompute_seconds", "Expected to compute a prompt's first.")
        compute.add_metric(self._values, stats.chunk_recompute_seconds)
        for name, tier in stats.tiers.items():
            label = name.name.lower()
            size.add_metric([*self._values, label, "used"], tier.used)
            size.add_metric([*self._values, label, "capacity"], tier.capacity)
            chunks.add_metric([*self._values, label], tier.chunks)
            healthy.add_metric([*self._values, label], float(tier.healthy))
            load.add_metric([*self._values, label], tier.load_seconds)
        sessions = self._gauge("tier_sessions", "Conversations that the brain remembers.")
        sessions.add_metric(self._values, stats.sessions)
        return [size, chunks, healthy, load, compute, sessions]

    def _counters(self, stats: HierarchyStats) -> Iterable[Metric]:
        for name, text, read in _PER_TIER:
            family = self._counter(name, text, "tier")
            for tier_name, tier in stats.tiers.items():
                family.add_metric([*self._values, tier_name.name.lower()], read(tier))
            yield family
        for name, text, value in (
            ("tier_promotions", "Sessions fetched back before they returned.", stats.promotions),
            ("tier_expired", "Sessions whose time to live ended.", stats.expired),
            (
                "restored_tokens",
                "Prompt tokens that came from lower tiers.",
                self._stats.restored_tokens,
            ),
        ):
            family = self._counter(name, text)
            family.add_metric(self._values, value)
            yield family

    def _restores(self, ledger: LedgerStats) -> Iterable[Metric]:
        modes = self._counter("restore", "Restore plans that were begun.", "mode")
        named = {"load": ledger.loads, "split": ledger.splits, "probe": ledger.probes}
        for mode, count in [*named.items(), ("none", ledger.plans - sum(named.values()))]:
            modes.add_metric([*self._values, mode], count)
        yield modes
        for name, text, value in (
            (
                "restore_seconds_saved",
                "Expected recompute seconds less those loaded, where that paid.",
                ledger.seconds_saved + ledger.regret,
            ),
            (
                "restore_seconds_lost",
                "Expected recompute seconds of chunks that no tier had any more.",
                ledger.seconds_lost,
            ),
            (
                "restore_regret_seconds",
                "By how much restores took longer than recomputing was expected to.",
                ledger.regret,
            ),
        ):
            family = self._counter(name, text)
            family.add_metric(self._values, value)
            yield family

    def _shadows(self, stats: HierarchyStats) -> Iterable[Metric]:
        rate = self._gauge(
            "shadow_hit_rate",
            "Share of sampled chunk lookups that `policy` would hit with `scale` times this room.",
            "policy",
            "scale",
        )
        lookups = self._gauge(
            "shadow_lookups", "Sampled chunk lookups behind that rate.", "policy", "scale"
        )
        for shadow in stats.shadows:
            labels = [*self._values, shadow.policy, f"{shadow.scale:g}"]
            rate.add_metric(labels, shadow.hit_rate)
            lookups.add_metric(labels, shadow.lookups)
        return [rate, lookups]

    def _gauge(self, name: str, text: str, *labels: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"stepwell_{name}", text, labels=[*self._names, *labels])

    def _counter(self, name: str, text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"stepwell_{name}", text, labels=[*self._names, *labels])
