"""Where chunks go: down when a request ends, further down before room is short, and up again.

Demotion is a copy made ahead of time: the next victims of a tier that is filling up are copied to
the tier below while there is time, so that making room later is an eviction and no wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from stepwell.base.hierarchy import TierName, WorkloadClass
from stepwell.cache.settings import KINDS, PLACEMENT, HierarchySettings
from stepwell.cache.store import ChunkStore


class Placement:
    """Orders stores and moves; owns no state of its own."""

    def __init__(self, store: ChunkStore, settings: HierarchySettings) -> None:
        self._store = store
        self._settings = settings
        names = sorted(store.books)
        self._targets = {kind: _targets(kind, names) for kind in WorkloadClass}
        self._below = dict(pairwise(names))

    def targets(self, kind: int) -> tuple[TierName, ...]:
        """Tiers that hold this class by default, of those that exist."""
        return self._targets[KINDS[kind]]

    def place(self, rows: Sequence[int], on_device: int, *, kind: int, now: float) -> None:
        """A request ended: freshen all its chunks, and order stores of the first `on_device`
        that its class's tiers lack. `rows` in chain order, touched last chunk first."""
        table = self._store.table
        for row in rows:
            table.reads[row] += 1  # so that a chain never makes room by eating itself
        for tier in self._store.books:
            fresh: set[int] = set()
            if tier in self.targets(kind):
                fresh = self._order_stores(rows[:on_device], tier, now)
            self._freshen(rows, tier, fresh, now)
        for row in rows:
            table.reads[row] -= 1
        self._code_anew(rows[:on_device], now)

    def clean(self, now: float) -> None:
        """Copy the next victims of filling tiers down. Looks at `clean_window` victims a tier and
        only when something changed there."""
        for tier, below in self._below.items():
            books = self._store.books[tier]
            share = self._settings.clean_from * books.spec.capacity_bytes
            if not (books.unclean and books.bounded and books.used >= share):
                continue
            if self._store.books[below].healthy and not self._clean_tier(tier, below, now):
                books.unclean = False

    def promote(self, rows: Sequence[int], *, now: float) -> int:
        """Copy chunks, given in chain order, to the tier nearest the device. Returns how many."""
        top = min(self._store.books)
        books, table = self._store.books[top], self._store.table
        victims = books.policy.victims(now)
        count = 0
        for row in rows:
            mask = table.where[row]
            if (mask | table.arriving[row]) >> top & 1:
                continue
            source = next((t for t in self._store.books if mask >> t & 1), None)
            if source is None or not books.healthy or not self._store.books[source].healthy:
                break
            size = round(books.expected)
            if not self._store.make_room(top, size, row=row, victims=victims, now=now):
                books.refused += 1
                break
            self._store.move(row, source, top, now=now)
            count += 1
        return count

    def _order_stores(self, rows: Sequence[int], tier: TierName, now: float) -> set[int]:
        """Order what is missing, prefix first, until there is no room. Returns the rows."""
        store, table = self._store, self._store.table
        books = store.books[tier]
        fresh: set[int] = set()
        if not books.healthy:
            return fresh
        victims = books.policy.victims(now)
        for at, row in enumerate(rows):
            if (table.where[row] | table.arriving[row]) >> tier & 1:
                continue
            size = max(1, round(books.expected))
            if not store.make_room(tier, size, row=row, victims=victims, now=now):
                books.refused += len(rows) - at
                break
            store.store(row, tier, now=now)
            fresh.add(row)
        return fresh

    def _code_anew(self, rows: Sequence[int], now: float) -> None:
        """What has left a session's window need not be exact any more. Not in a shared tier, where
        others may be reading it."""
        for tier, books in self._store.books.items():
            if books.has_forms and books.healthy:
                for row in reversed(rows):
                    self._store.code_anew(row, tier, now)

    def _freshen(self, rows: Sequence[int], tier: TierName, fresh: set[int], now: float) -> None:
        table, policy = self._store.table, self._store.books[tier].policy
        for row in reversed(rows):
            if table.pins[row]:
                continue
            if row in fresh:
                policy.insert(row, now)
            elif (table.where[row] | table.arriving[row]) >> tier & 1:
                policy.freshen(row, now)

    def _clean_tier(self, tier: TierName, below: TierName, now: float) -> bool:
        """Whether there is more to do, now or when moves in flight have ended."""
        store, table = self._store, self._store.table
        bit = 1 << below
        lower = store.books[below].policy.victims(now)
        for seen, row in enumerate(store.books[tier].policy.victims(now)):
            if seen >= self._settings.clean_window:
                return False
            if store.moves >= self._settings.moves_in_flight:
                return True
            if (table.where[row] | table.arriving[row]) & bit or not table.where[row] >> tier & 1:
                continue
            size = max(1, round(store.books[below].expected))
            if not store.make_room(below, size, row=row, victims=lower, now=now):
                return False
            store.move(row, tier, below, now=now)
        return False


def chain_of(store: ChunkStore, tail: int, session: int) -> list[int]:
    """Rows of a session's own chain in chain order: from the tail up to what others used since."""
    rows = []
    for row in store.table.walk_up(tail):
        if store.table.session[row] != session:
            break
        rows.append(row)
    rows.reverse()
    return rows


def _targets(kind: WorkloadClass, names: Sequence[TierName]) -> tuple[TierName, ...]:
    wanted = PLACEMENT[kind]
    present = tuple(tier for tier in wanted if tier in names)
    if present or not names:
        return present
    below = [tier for tier in names if tier > wanted[0]]
    return (below[0] if below else names[-1],)
