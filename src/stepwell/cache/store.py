"""Copies in tiers: announce, arrive, fail, evict; and the orders that are under way.

Owns the chunk table and the books together, so that every change of a copy is booked once. An
order pins its row from here until its report: the source by `reads`, the target by `arriving`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import (
    EvictChunk,
    Failure,
    LoadChunk,
    MoveChunk,
    Order,
    StoreChunk,
    TierName,
    TransferReport,
)
from stepwell.cache.books import TierBooks
from stepwell.cache.chunks import CODED, NO_ROW, ChunkTable
from stepwell.cache.meta import ChunkMeta, pack_meta
from stepwell.cache.sessions import Session

_GONE = frozenset({Failure.MISSING, Failure.CORRUPT})
_SCAN_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class OpenOrder:
    """An order whose report is awaited. `source` or `target` None: the device."""

    row: int
    source: TierName | None
    target: TierName | None
    size: int
    request_id: str | None
    since: float


class ChunkStore:
    """All copies of all chunks. Not thread-safe: the hierarchy owns it."""

    def __init__(
        self,
        books: dict[TierName, TierBooks],
        *,
        max_ghosts: int,
        tenants: list[bytes],
        chunk_bytes: int,
    ) -> None:
        self.table = ChunkTable(max_ghosts=max_ghosts, nominal=chunk_bytes)
        self.books = books
        self.open: dict[int, OpenOrder] = {}
        self.orders: list[Order] = []
        self.moves = 0
        self._tenants = tenants
        self._next_order = 1

    def next_order_id(self) -> int:
        """Unique in this process."""
        self._next_order += 1
        return self._next_order - 1

    # --- orders -----------------------------------------------------------------------------

    def load(
        self, row: int, tier: TierName, *, index: int, request_id: str, now: float, deadline: float
    ) -> LoadChunk:
        """Pin the copy and order its load; the caller hands the order out."""
        table, size = self.table, self.table.size[tier][row]
        order = LoadChunk(
            order_id=self.next_order_id(), request_id=request_id, index=index,
            key=_key(table, row), tier=tier, size=size, deadline=deadline,
        )  # fmt: skip
        table.reads[row] += 1
        self.books[tier].load.in_flight += size
        self.open[order.order_id] = OpenOrder(row, tier, None, size, request_id, now)
        return order

    def store(self, row: int, tier: TierName, *, now: float) -> None:
        """Announce a copy and order its store from the device. Room has been made; the caller
        inserts the row into the tier's policy (last chunk first)."""
        size, exact = self._announce(row, tier), self._keep_exact(row, tier)
        replaces = self.books[tier].has_forms
        order = StoreChunk(
            order_id=self.next_order_id(), key=_key(self.table, row), tier=tier, size=size,
            meta=self._meta(row, exact=exact), index=self.table.position[row], exact=exact,
            replaces=replaces,
        )  # fmt: skip
        self.orders.append(order)
        self.open[order.order_id] = OpenOrder(row, None, tier, size, None, now)

    def move(self, row: int, source: TierName, target: TierName, *, now: float) -> None:
        """Announce a copy in `target` and order it from `source`. Room has been made."""
        size, exact = self._announce(row, target), self._keep_exact(row, target)
        order = MoveChunk(
            order_id=self.next_order_id(), key=_key(self.table, row), source=source,
            target=target, size=self.table.size[source][row],
            meta=self._meta(row, exact=exact), index=self.table.position[row], exact=exact,
            replaces=self.books[target].has_forms,
        )  # fmt: skip
        if not self.table.pins[row]:
            self.books[target].policy.insert(row, now)
        self.table.reads[row] += 1
        self.moves += 1
        self.orders.append(order)
        self.open[order.order_id] = OpenOrder(row, source, target, size, None, now)

    def finish(self, event: TransferReport) -> OpenOrder | None:
        """Unpin and book the outcome. None for a report that nobody awaits."""
        order = self.open.pop(event.order_id, None)
        if order is None:
            return None
        if order.source is not None:
            self._finish_source(order, event)
        if order.target is not None:
            self._finish_target(order, event)
        if order.source is not None and order.target is not None:
            self.moves -= 1
        self.table.settle(order.row)
        return order

    # --- rows -------------------------------------------------------------------------------

    def know(self, keys: Sequence[bytes], session: Session, now: float) -> list[int]:
        """Rows of a chain's chunks that are on the device, added where they are new."""
        table, parent = self.table, NO_ROW
        rows = []
        for position, key in enumerate(keys):
            row = table.index.get(key)
            if row is None:
                row = table.add(
                    key, parent=parent, position=position, tenant=session.tenant,
                    kind=session.kind, now=now,
                )  # fmt: skip
            table.session[row] = session.number
            table.priority[row] = session.priority
            rows.append(row)
            parent = row if table.position[row] == position else NO_ROW
        return rows

    def touch(self, rows: Sequence[int], now: float) -> None:
        """A request used these chunks, known ones from the front of its chain."""
        table = self.table
        policies = [(1 << tier, books.policy) for tier, books in self.books.items()]
        for row in reversed(rows):
            if not table.pins[row]:
                held = table.where[row] | table.arriving[row]
                for bit, policy in policies:
                    if held & bit:
                        policy.touch(row, now)
            table.touched[row] = now

    # --- copies -----------------------------------------------------------------------------

    def adopt(self, row: int, tier: TierName, size: int, now: float) -> None:
        """A copy that is there already: found by a scan or a lookup."""
        self.table.set_arriving(row, tier)
        self.books[tier].take(self.table.tenant[row], size)
        self.table.arrive(row, tier, size)
        if not self.table.pins[row]:
            self.books[tier].policy.insert(row, now)

    def evict(self, row: int, tier: TierName, now: float) -> None:
        """Remove a copy that is evictable. In a shared tier it is only forgotten here."""
        table, books = self.table, self.books[tier]
        books.evictions += 1
        if not (table.where[row] | table.arriving[row]) & ~(1 << tier):
            books.dropped += 1
        if not books.spec.shared:
            self.orders.append(EvictChunk(key=_key(table, row), tier=tier))
        self._remove(row, tier, now)
        table.settle(row)

    def take_away(self, row: int, tier: TierName, now: float) -> None:
        """Remove a copy from the books whatever protects it; the caller has it erased."""
        self._remove(row, tier, now)
        self.table.settle(row)

    def code_anew(self, row: int, tier: TierName, now: float) -> bool:
        """Let an exact copy in a lossy tier be replaced by a coded one, from the device, once
        nothing asks any more that it be exact. False where there is nothing to do, or not now."""
        table = self.table
        due = table.exact[row] & table.where[row] & ~table.arriving[row]
        if not due >> tier & 1 or table.flags[row] or table.reads[row]:
            return False
        self._remove(row, tier, now)
        self.store(row, tier, now=now)
        if not table.pins[row]:
            self.books[tier].policy.insert(row, now)
        return True

    def make_room(
        self, tier: TierName, size: int, *, row: int, victims: Iterator[int], now: float
    ) -> bool:
        """Evict until `size` more bytes of `row` fit. False, and perhaps some room made, if they
        cannot be had or `row` is worth less than what would have to go. `victims`: the policy's,
        one iterator for a batch of calls."""
        books, table = self.books[tier], self.table
        tenant = table.tenant[row]
        if books.over_quota(tenant, size) and not self._shrink_tenant(books, tenant, size, now):
            return False
        if books.fits(size):
            return True
        for scanned, victim in enumerate(victims):
            if scanned >= _SCAN_LIMIT:
                break
            if not table.evictable(victim, tier):
                continue
            if not books.policy.admit(row, victim, now):
                return False
            self.evict(victim, tier, now)
            if books.fits(size):
                return True
        return False

    def shrink(self, tier: TierName, now: float) -> None:
        """Evict what exceeds the capacity after copies came out larger than promised."""
        books = self.books[tier]
        if books.fits(0):
            return
        for victim in books.policy.victims(now):
            if self.table.evictable(victim, tier):
                self.evict(victim, tier, now)
                if books.fits(0):
                    return

    def refuse_unknown(self, tier: TierName, keys: Iterable[bytes]) -> None:
        """Evict what the books will never know."""
        self.orders += [EvictChunk(key=key, tier=tier) for key in keys]

    def forget_beyond(self, tier: TierName, chunks: int, now: float) -> None:
        """Keep at most so many chunks of a tier that has no limit of ours in the books."""
        books = self.books[tier]
        if books.chunks <= chunks:
            return
        for victim in books.policy.victims(now):
            if self.table.evictable(victim, tier):
                self.evict(victim, tier, now)
                if books.chunks <= chunks:
                    return

    def set_pin(self, rows: Iterable[int], now: float) -> None:
        """Rows without a pin get one and leave the policies."""
        table = self.table
        for row in rows:
            table.pins[row] = 1
            for tier, books in self._tiers_of(row):
                books.policy.remove(row, now)
                books.pin(table.tenant[row], table.size[tier][row])

    def clear_pin(self, rows: Iterable[int], now: float) -> None:
        """Pinned rows are so no longer; they return to the policies."""
        table = self.table
        for row in rows:
            table.pins[row] = 0
            for tier, books in self._tiers_of(row):
                books.pin(table.tenant[row], -table.size[tier][row])
                books.policy.insert(row, now)
            table.settle(row)

    def check(self) -> None:
        """Re-count bytes and pins; raises AssertionError with what is wrong."""
        table = self.table
        table.check()
        reads = [0] * table.rows
        arriving: set[tuple[int, int]] = set()
        for order in self.open.values():
            if order.source is not None:
                reads[order.row] += 1
            if order.target is not None:
                arriving.add((order.row, order.target))
        assert reads == list(table.reads), "pins of orders miscounted"
        announced = {
            (row, tier) for row in table.index.values() for tier in self.books
            if table.arriving[row] >> tier & 1
        }  # fmt: skip
        assert announced == arriving, "an announced copy without an order, or the reverse"
        for tier, books in self.books.items():
            self._check_tier(tier, books)

    # --- inside -----------------------------------------------------------------------------

    def _check_tier(self, tier: TierName, books: TierBooks) -> None:
        table = self.table
        held = [r for r in table.index.values() if (table.where[r] | table.arriving[r]) >> tier & 1]
        used = sum(table.size[tier][row] for row in held)
        assert used == books.used == sum(books.by_tenant.values()), f"{tier.name}: bytes miscounted"
        assert len(held) == books.chunks, f"{tier.name}: chunks miscounted"
        over = books.bounded and books.used > books.spec.capacity_bytes
        assert not over or not any(table.evictable(r, tier) for r in held), f"{tier.name} is over"
        pinned = sum(table.size[tier][row] for row in held if table.pins[row])
        assert pinned == books.pinned == sum(books.pinned_by.values()), (
            f"{tier.name}: pinned bytes miscounted"
        )
        listed = sorted(books.policy.rows())
        assert listed == sorted(r for r in held if not table.pins[r]), f"{tier.name}: policy's rows"

    def _tiers_of(self, row: int) -> list[tuple[TierName, TierBooks]]:
        mask = self.table.where[row] | self.table.arriving[row]
        return [(tier, books) for tier, books in self.books.items() if mask >> tier & 1]

    def _announce(self, row: int, tier: TierName) -> int:
        books = self.books[tier]
        size = max(1, round(books.expected))
        self.table.set_arriving(row, tier)
        self.table.size[tier][row] = size
        books.take(self.table.tenant[row], size)
        if self.table.pins[row]:
            books.pin(self.table.tenant[row], size)
        return size

    def _finish_source(self, order: OpenOrder, event: TransferReport) -> None:
        assert order.source is not None
        table, books = self.table, self.books[order.source]
        table.reads[order.row] -= 1
        if order.target is None:
            books.load.in_flight -= order.size
        if event.failure is None:
            if books.spec.lossy and not table.exact[order.row] >> order.source & 1:
                table.flags[order.row] |= CODED
            if order.target is None:
                books.loads += 1
                books.bytes_loaded += event.size or order.size
            return
        books.failures += event.failure is not Failure.CANCELLED  # computing was faster
        if event.failure in _GONE and table.where[order.row] >> order.source & 1:
            self._remove(order.row, order.source, event.now)

    def _finish_target(self, order: OpenOrder, event: TransferReport) -> None:
        assert order.target is not None
        table, books, row = self.table, self.books[order.target], order.row
        if event.failure is not None:
            books.failures += 1
            self._remove(row, order.target, event.now)
            if books.has_forms:  # an older form may still be there
                self.orders.append(EvictChunk(key=_key(table, row), tier=order.target))
            return
        size = event.size or order.size
        change = size - table.size[order.target][row]
        books.resize(table.tenant[row], change)
        if table.pins[row]:
            books.pin(table.tenant[row], change)
        table.arrive(row, order.target, size)
        books.learn_size(size)
        books.stores += 1
        books.kept_exact += event.kept_exact
        books.bytes_stored += size

    def _remove(self, row: int, tier: TierName, now: float) -> None:
        table, books = self.table, self.books[tier]
        size = table.size[tier][row]
        books.give(table.tenant[row], size)
        if table.pins[row]:
            books.pin(table.tenant[row], -size)
        else:
            books.policy.remove(row, now)
        table.remove_copy(row, tier)
        parent = table.parent[row]
        if parent != NO_ROW and not table.leaves[tier][parent]:
            books.policy.uncover(parent, now)

    def _shrink_tenant(self, books: TierBooks, tenant: int, size: int, now: float) -> bool:
        """Evict this tenant's own least worthy chunks until its quota has room."""
        for scanned, victim in enumerate(books.policy.victims(now)):
            if scanned >= _SCAN_LIMIT:
                break
            if self.table.tenant[victim] == tenant and self.table.evictable(victim, books.name):
                self.evict(victim, books.name, now)
                if not books.over_quota(tenant, size):
                    return True
        return False

    def _keep_exact(self, row: int, tier: TierName) -> bool:
        """Whether a copy that is about to go to `tier` must lose nothing there."""
        exact = self.books[tier].spec.lossy and self.table.flags[row] != 0
        self.table.exact[row] |= exact << tier
        return exact

    def _meta(self, row: int, *, exact: bool) -> bytes:
        table, parent = self.table, self.table.parent[row]
        key = b"" if parent == NO_ROW else _key(table, parent)
        tenant = self._tenants[table.tenant[row]]
        coded = bool(table.flags[row] & CODED)
        return pack_meta(
            ChunkMeta(table.kind[row], tenant, table.position[row], key, exact=exact, coded=coded)
        )


def _key(table: ChunkTable, row: int) -> bytes:
    key = table.keys[row]
    assert key is not None
    return key
