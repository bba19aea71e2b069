"""Pins that requests ask for: for a time, and for a share of each tier.

A pin protects a chunk's copies from eviction until its time is over; asking again prolongs it.
Prefixes that are pinned by name (`hold`) stay so until they are let go of. All pins together
protect at most `pin_share` of a tier, those of one tenant at most `tenant_pin_share`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Sequence

from stepwell.cache.settings import HierarchySettings
from stepwell.cache.store import ChunkStore


class Pins:
    """Owned by `Hierarchy`. At most one timer a pinned chunk; one that comes too early (the pin was
    prolonged) is set again. Chunks are counted beside bytes, since a copy may be lost meanwhile."""

    def __init__(self, store: ChunkStore, settings: HierarchySettings) -> None:
        self._store = store
        self._settings = settings
        self._until: dict[int, float] = {}
        self._timers: list[tuple[float, int]] = []
        self._chunks: Counter[int] = Counter()
        self._names: dict[str, list[int]] = {}
        self._held: Counter[int] = Counter()  # rows by how many names hold them

    def pin(self, rows: Sequence[int], now: float, *, seconds: float | None = None) -> int:
        """Protect these chunks of one tenant, given in chain order, for `seconds` (None: the
        default, and never more than the longest). Returns how many of them, from the first on:
        fewer where the shares are used up or no tier has them."""
        longest, table = self._settings.pin_seconds_max, self._store.table
        until = now + min(longest, self._settings.pin_seconds if seconds is None else seconds)
        fresh: list[int] = []
        count = 0
        for row in rows:
            if not table.pins[row]:
                if not self._can_pin(row, len(fresh) + 1):
                    break
                fresh.append(row)
                self._chunks[table.tenant[row]] += 1
            if row not in self._until:
                heapq.heappush(self._timers, (until, row))
            self._until[row] = max(until, self._until.get(row, until))
            count += 1
        self._store.set_pin(fresh, now)
        return count

    def hold(self, name: str, rows: Sequence[int], now: float) -> int:
        """Protect these chunks of one tenant, in chain order, until `let_go(name)`; a name holds
        what it was given last. Returns how many, as `pin` does."""
        table, old = self._store.table, self._names.pop(name, [])
        fresh: list[int] = []
        held: list[int] = []
        for row in rows:
            if not table.pins[row]:
                if not self._can_pin(row, len(fresh) + 1):
                    break
                fresh.append(row)
                self._chunks[table.tenant[row]] += 1
            held.append(row)
        self._held.update(held)
        self._names[name] = held
        self._store.set_pin(fresh, now)
        self._release(old, now)
        return len(held)

    def let_go(self, name: str, now: float) -> None:
        """Unknown names are ignored."""
        self._release(self._names.pop(name, []), now)

    def holding(self, rows: Collection[int]) -> list[str]:
        """Names that hold any of these."""
        wanted = set(rows)
        return [name for name, held in self._names.items() if not wanted.isdisjoint(held)]

    def tick(self, now: float) -> None:
        """Let go of what is over."""
        over: list[int] = []
        while self._timers and self._timers[0][0] <= now:
            _, row = heapq.heappop(self._timers)
            if self._until[row] > now:
                heapq.heappush(self._timers, (self._until[row], row))
            else:
                del self._until[row]
                if row not in self._held:
                    over.append(row)
        self._clear(over, now)

    def _release(self, rows: Sequence[int], now: float) -> None:
        over = []
        for row in rows:
            self._held[row] -= 1
            if not self._held[row]:
                del self._held[row]
                if row not in self._until:
                    over.append(row)
        self._clear(over, now)

    def _clear(self, over: list[int], now: float) -> None:
        table = self._store.table
        for row in over:
            self._chunks[table.tenant[row]] -= 1
        over.sort(key=lambda row: -table.position[row])  # policies take a chain's last one first
        self._store.clear_pin(over, now)

    def check(self) -> None:
        """Re-count; raises AssertionError with what is wrong."""
        table = self._store.table
        pinned = {row for row in table.index.values() if table.pins[row]}
        assert pinned == self._until.keys() | self._held.keys(), "a pin that nobody asked for"
        assert sorted(row for _, row in self._timers) == sorted(self._until), "timers miscounted"
        held = Counter(row for rows in self._names.values() for row in rows)
        assert held == self._held, "held rows miscounted"
        assert +self._chunks == Counter(table.tenant[row] for row in pinned), "pins by tenant"

    def _can_pin(self, row: int, fresh: int) -> bool:
        table = self._store.table
        held = table.where[row] or table.arriving[row]
        return bool(held) and self._has_room(table.tenant[row], fresh)

    def _has_room(self, tenant: int, fresh: int) -> bool:
        """Whether the last of `fresh` new chunks of this tenant may be protected too, wherever
        their copies lie."""
        total, own = self._settings.pin_share, self._settings.tenant_pin_share
        bounded = [books for books in self._store.books.values() if books.bounded]
        for books in bounded:
            size, capacity = fresh * books.expected, books.spec.capacity_bytes
            mine = books.pinned_by.get(tenant, 0)
            if books.pinned + size > total * capacity or mine + size > own * capacity:
                return False
        most = max((books.spec.capacity_bytes / books.expected for books in bounded), default=0.0)
        return self._chunks.total() < total * most and self._chunks[tenant] < own * most
