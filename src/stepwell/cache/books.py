"""The books of one lower tier: bytes used and promised, by tenant, and the tier's counters."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.base.hierarchy import TierName
from stepwell.base.tier_stats import TierStats
from stepwell.cache.cost import TransferCost
from stepwell.cache.policy import Policy
from stepwell.cache.settings import TierSpec

_RATIO_WEIGHT = 0.05


class TierBooks:
    """One tier's account. `load` and `store` are the costs of moving bytes out of and into it."""

    def __init__(
        self, spec: TierSpec, policy: Policy, *, chunk_bytes: int, quota: Mapping[int, int]
    ) -> None:
        self.spec = spec
        self.name = spec.name
        self.policy = policy
        self.load = TransferCost()
        self.store = TransferCost()
        self.healthy = True
        self.used = 0
        self.chunks = 0
        self.pinned = 0
        self.pinned_by: dict[int, int] = {}
        self.by_tenant: dict[int, int] = {}
        self.quota = dict(quota)
        self.expected = float(chunk_bytes)
        self.loads = self.stores = self.bytes_loaded = self.bytes_stored = 0
        self.evictions = self.dropped = self.failures = self.refused = self.kept_exact = 0
        self.last_measured = float("-inf")
        self.probe_wait = 0.0
        self.unclean = True

    @property
    def bounded(self) -> bool:
        """Whether the brain makes room here."""
        return self.spec.capacity_bytes > 0

    @property
    def has_forms(self) -> bool:
        """Whether what it holds under one key may be exact or coded, and ours to replace."""
        return self.spec.lossy and not self.spec.shared

    def fits(self, size: int) -> bool:
        """Whether `size` more bytes stay within the capacity."""
        return not self.bounded or self.used + size <= self.spec.capacity_bytes

    def over_quota(self, tenant: int, size: int) -> bool:
        """Whether `size` more bytes exceed what this tenant may have here."""
        limit = self.quota.get(tenant)
        return limit is not None and self.by_tenant.get(tenant, 0) + size > limit

    def take(self, tenant: int, size: int) -> None:
        """Bytes are promised or used."""
        self.used += size
        self.chunks += 1
        self.by_tenant[tenant] = self.by_tenant.get(tenant, 0) + size
        self.unclean = True

    def resize(self, tenant: int, change: int) -> None:
        """A copy turned out larger or smaller than promised."""
        self.used += change
        self.by_tenant[tenant] += change

    def give(self, tenant: int, size: int) -> None:
        """Bytes are free again."""
        self.used -= size
        self.chunks -= 1
        left = self.by_tenant[tenant] - size
        if left:
            self.by_tenant[tenant] = left
        else:
            del self.by_tenant[tenant]

    def pin(self, tenant: int, change: int) -> None:
        """So many bytes more (or less) are protected by pins."""
        self.pinned += change
        left = self.pinned_by.get(tenant, 0) + change
        if left:
            self.pinned_by[tenant] = left
        else:
            self.pinned_by.pop(tenant, None)

    def learn_size(self, size: int) -> None:
        """Chunks of this size arrive here (codecs change it)."""
        self.expected += _RATIO_WEIGHT * (size - self.expected)

    def stats(self) -> TierStats:
        """A copy of the account."""
        return TierStats(
            capacity=self.spec.capacity_bytes, used=self.used, chunks=self.chunks,
            healthy=self.healthy, loads=self.loads, stores=self.stores,
            bytes_loaded=self.bytes_loaded, bytes_stored=self.bytes_stored,
            evictions=self.evictions, dropped=self.dropped, failures=self.failures,
            refused=self.refused, kept_exact=self.kept_exact,
            expected_chunk_bytes=round(self.expected),
            load_seconds=self.load.model_seconds(round(self.expected)) if self.load.known else 0.0,
        )  # fmt: skip


Books = Mapping[TierName, TierBooks]
