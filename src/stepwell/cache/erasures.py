"""What must be forgotten, in every lower tier: which chunks, and until their bytes are gone.

Goes: the chunks that were noted (`marks.py`), whatever was computed after them, and of the same
tenant whatever nobody here can vouch for: chunks that an earlier process or another one wrote and
no request of this process has had in its chain. The books let go at once; an order that a tier
could not carry out is given again until it could.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from stepwell.base.hierarchy import EraseChunks, TierName, TransferReport
from stepwell.cache.chunks import NO_ROW
from stepwell.cache.marks import Roots
from stepwell.cache.meta import unpack_meta
from stepwell.cache.store import ChunkStore, OpenOrder

_AGAIN_SECONDS = 2.0
_Also = Callable[[bytes, bytes], bool]


@dataclass(slots=True)
class _Work:
    """Of one tier. `also`: predicates on (key, meta). `since`: when it was last ordered."""

    keys: set[bytes] = field(default_factory=set)
    also: list[_Also] = field(default_factory=list)
    since: float = float("-inf")


class Erasures:
    """Owned by `Hierarchy`."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._todo: dict[TierName, _Work] = {}
        self._open: dict[int, tuple[TierName, _Work]] = {}
        self._arriving: set[tuple[int, TierName]] = set()

    @property
    def pending(self) -> int:
        """Orders that are not reported, or are to be given again, and copies still on their way."""
        return len(self._todo) + len(self._open) + len(self._arriving)

    def doomed(self, roots: Roots, *, tenant: int) -> list[int]:
        """Rows that go, the end of each chain first."""
        table = self._store.table
        own = [row for row in table.index.values() if table.tenant[row] == tenant]
        children: dict[int, list[int]] = defaultdict(list)
        front: list[int] = []
        for row in own:
            children[table.parent[row]].append(row)
            lost = table.parent[row] == NO_ROW and table.position[row] > 0
            if roots.everything or lost or table.foreign[row] or table.keys[row] in roots.chunks:
                front.append(row)
        found: set[int] = set()
        while front:
            row = front.pop()
            if row not in found:
                found.add(row)
                front += children[row]
        return sorted(found, key=lambda row: -table.position[row])

    def erase(self, rows: Iterable[int], *, tenant: int, digest: bytes, now: float) -> int:
        """Take these rows' copies away and order them erased; returns how many copies. Each tier
        gets an order, if only to overwrite what was evicted earlier."""
        table, count, gone = self._store.table, 0, set(rows)
        kept = frozenset(
            key for key, row in table.index.items()
            if table.tenant[row] == tenant and row not in gone and not table.foreign[row]
        )  # fmt: skip
        for tier, books in self._store.books.items():
            work = self._todo.setdefault(tier, _Work())
            work.since = float("-inf")
            if books.spec.shared:
                work.also.append(_unknown_of(digest, kept))
        for row in sorted(gone, key=lambda row: -table.position[row]):
            key = table.keys[row]
            for tier in self._store.books:
                if table.arriving[row] >> tier & 1:
                    self._arriving.add((row, tier))
                    count += 1
                elif table.where[row] >> tier & 1 and key is not None:
                    self._todo[tier].keys.add(key)
                    self._store.take_away(row, tier, now)
                    count += 1
        self.tick(now)
        return count

    def arrived(self, order: OpenOrder, now: float) -> None:
        """A store or move has ended: was its chunk forgotten meanwhile?"""
        if order.target is None or (order.row, order.target) not in self._arriving:
            return
        self._arriving.discard((order.row, order.target))
        table, tier = self._store.table, order.target
        key = table.keys[order.row]
        if table.where[order.row] >> tier & 1 and key is not None:
            self._store.take_away(order.row, tier, now)
            work = self._todo.setdefault(tier, _Work())
            work.keys.add(key)
            work.since = float("-inf")

    def ended(self, event: TransferReport) -> bool:
        """Whether this was the report of an erasure."""
        found = self._open.pop(event.order_id, None)
        if found is None:
            return False
        tier, work = found
        if event.failure is not None:
            again = self._todo.setdefault(tier, _Work())
            again.keys |= work.keys
            again.also += work.also
            again.since = event.now
        return True

    def tick(self, now: float) -> None:
        """Order what is to be done, and what has failed again after a while."""
        for tier, work in list(self._todo.items()):
            if now - work.since < _AGAIN_SECONDS or not self._store.books[tier].healthy:
                continue
            del self._todo[tier]
            also = list(work.also)
            order = EraseChunks(
                order_id=self._store.next_order_id(), tier=tier, keys=tuple(work.keys),
                also=_any(also) if also else None,
            )  # fmt: skip
            self._open[order.order_id] = (tier, work)
            self._store.orders.append(order)


def _unknown_of(digest: bytes, kept: frozenset[bytes]) -> _Also:
    """Chunks of a tenant that the books cannot vouch for; those of unknown metadata too."""

    def doomed(key: bytes, meta: bytes) -> bool:
        known = unpack_meta(meta)
        return known is None or (known.tenant == digest and key not in kept)

    return doomed


def _any(tests: list[_Also]) -> _Also:
    return lambda key, meta: any(test(key, meta) for test in tests)
