"""Shadow caches: what other policies and other sizes would have hit, while serving.

Spatial sampling (SHARDS, Waldspurger et al., FAST'15): of the chunks, one in `one_in` is followed,
chosen by its key, in caches that are smaller by that factor. The policies are those that serve,
over rows of their own; labels and return times come from the one forecast. Keys only: nothing is
stored. Pins, times to live, quotas and classes that go elsewhere are not followed: a shadow is one
cache of the tiers' joint capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from zlib import crc32

from stepwell.base.hierarchy import TierName
from stepwell.base.tier_stats import ShadowResult
from stepwell.cache.chunks import NO_ROW, ChunkTable
from stepwell.cache.forecast import Forecast
from stepwell.cache.policy import Policy, PolicyContext
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.sampled import SampledRows

SCALES = (0.5, 1.0, 2.0)
_ENOUGH = 512
"""Sampled chunks at scale 1 from which one in two is dropped: 512 to 1,023 remain."""
_SCAN_LIMIT = 4096
"""Victims looked at for one newcomer, before sampling, as `ChunkStore` does it."""


class ShadowCaches:
    """`capacity`: chunks of the real caches. `live`: their table, whose labels are taken over."""

    def __init__(
        self,
        capacity: int,
        *,
        live: ChunkTable,
        forecast: Forecast,
        chunk_seconds: Callable[[int], float],
    ) -> None:
        self.one_in = 1 << max(0, (capacity // _ENOUGH).bit_length() - 1)
        self._live = live
        kinds = [(name, scale) for name in POLICIES for scale in SCALES]
        self._rows = SampledRows(caches=len(kinds), nominal=live.nominal)
        self._caches = []
        for number, (name, scale) in enumerate(kinds):
            size = max(1, round(capacity * scale / self.one_in))
            context = PolicyContext(
                self._rows, TierName.HOST, self._rows.leaves[number], size, chunk_seconds, forecast
            )
            policy = POLICIES[name](context)
            scan = max(1, _SCAN_LIMIT // self.one_in)
            self._caches.append(_ShadowCache(self._rows, policy, number, scale, size, scan))
        self._keys = self._lookups = 0

    def begin(self, keys: Sequence[bytes], now: float) -> None:
        """A request begins that uses this chain."""
        followed = self._followed(keys)
        self._keys += len(keys)
        if not followed:
            return
        self._lookups += len(followed)
        rows = self._rows.find(followed)
        for cache in self._caches:
            cache.use(rows, now)

    def close(self, keys: Sequence[bytes], now: float) -> None:
        """The request has ended and its chain is idle; the live rows have their labels."""
        rows = self._know(keys, now)
        if not rows:
            return
        gone: list[int] = []
        for cache in self._caches:
            gone += cache.keep(rows, now)
        for row in (*gone, *reversed(rows)):
            self._rows.settle(row)

    def results(self) -> tuple[ShadowResult, ...]:
        """One a policy and scale. Lookups that the sample has too few or too many of, beside its
        share of all, are those of the hottest chunks, which every cache holds: they count as hits
        (SHARDS_adj, section 3.3 of the paper)."""
        lookups = round(self._keys / self.one_in)
        missing = lookups - self._lookups
        return tuple(
            ShadowResult(
                policy=cache.policy.name, scale=cache.scale, lookups=lookups,
                hits=max(0, cache.hits + missing),
            )
            for cache in self._caches
        )  # fmt: skip

    def check(self) -> None:
        """Re-count what the caches hold; raises AssertionError with what is wrong."""
        for cache in self._caches:
            cache.check()

    def _followed(self, keys: Sequence[bytes]) -> list[bytes]:
        mask = self.one_in - 1
        return [key for key in keys if not crc32(key) & mask]

    def _know(self, keys: Sequence[bytes], now: float) -> list[int]:
        """Rows of the followed chunks that the live table knows, with what it says of them."""
        own, live = self._rows, self._live
        rows: list[int] = []
        parent = NO_ROW
        for key in self._followed(keys):
            source = live.index.get(key)
            if source is None:
                break
            row = own.index.get(key)
            if row is None:
                row = own.add(key, parent=parent, position=live.position[source])
            own.bucket[row], own.touched[row] = live.bucket[source], now
            own.priority[row] = live.priority[source]
            rows.append(row)
            parent = row
        return rows


class _ShadowCache:
    """One policy at one size, in sampled chunks."""

    def __init__(
        self, rows: SampledRows, policy: Policy, number: int, scale: float, size: int, scan: int
    ) -> None:
        self.policy = policy
        self.scale = scale
        self.hits = 0
        self._rows = rows
        self._number = number
        self._bit = 1 << number
        self._size = size
        self._scan = scan
        self._count = 0

    def use(self, rows: Sequence[int], now: float) -> None:
        """Count the hits: as in a real cache, up to the first chunk that is missing."""
        held, bit = self._rows.held, self._bit
        hits = 0
        for row in rows:
            if not held[row] & bit:
                break
            hits += 1
        self.hits += hits
        for row in reversed(rows):
            if held[row] & bit:
                self.policy.touch(row, now)

    def keep(self, rows: Sequence[int], now: float) -> list[int]:
        """The chain is idle: take in what is missing. Returns what was evicted for it."""
        fresh, gone = self._admit(rows, now)
        for row in reversed(rows):
            if row in fresh:
                self.policy.insert(row, now)
            elif self._rows.held[row] & self._bit:
                self.policy.freshen(row, now)
        return gone

    def check(self) -> None:
        """Raises AssertionError with what is wrong."""
        held = [row for row in self._rows.index.values() if self._rows.held[row] & self._bit]
        assert sorted(self.policy.rows()) == sorted(held), "policy's rows"
        assert len(held) == self._count <= self._size, "rows miscounted"

    def _admit(self, rows: Sequence[int], now: float) -> tuple[set[int], list[int]]:
        """As `Placement` does it: prefix first, until nothing is worth less than the newcomer.
        What is new, and what was evicted."""
        fresh: set[int] = set()
        gone: list[int] = []
        victims, chain = self.policy.victims(now), frozenset(rows)
        for row in rows:
            if self._rows.held[row] & self._bit:
                continue
            if self._count >= self._size:
                victim = self._victim(row, chain, victims, now)
                if victim is None:
                    break
                gone.append(victim)
            self._rows.hold(row, self._number)
            self._count += 1
            fresh.add(row)
        return fresh, gone

    def _victim(
        self, row: int, chain: frozenset[int], victims: Iterator[int], now: float
    ) -> int | None:
        """Evict one row for `row`, none of its own chain and none with children here."""
        leaves = self._rows.leaves[self._number]
        for victim in islice(victims, self._scan):
            if leaves[victim] or victim in chain:
                continue
            if not self.policy.admit(row, victim, now):
                return None
            self.policy.remove(victim, now)
            self._rows.let_go(victim, self._number)
            parent = self._rows.parent[victim]
            if parent != NO_ROW and not leaves[parent]:
                self.policy.uncover(parent, now)
            self._count -= 1
            return victim
        return None
