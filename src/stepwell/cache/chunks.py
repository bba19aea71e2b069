"""The chunk table: one row a chunk that some lower tier holds, or held not long ago.

Columns are `array`s and not objects, because there may be a million rows (the bench in
`evaluate/brain_bench.py` holds the whole brain to 400 bytes a chunk). A row lives as long as a
tier holds it, an order touches it, or a child row points at it; after that it may stay as a
*ghost*, so that a return after an eviction is still recognized. Ghosts are bounded.

Owned by `Hierarchy`; policies read columns and never write them.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence

NO_ROW = -1
TIERS = 4
RECENT = 1
"""Flag: among the last tokens of the session that used it last; those are kept without loss."""
CODED = 2
"""Flag: its numbers have been through a lossy codec, and are not to go through one again."""
_MAX_COUNT = 0xFFFF
_ROWS_AT_ONCE = 1024


class ChunkTable:
    """Rows by key, with the bits `where` (resident in tier t: bit t) and `arriving` (on its way).

    `reads`: orders that read it now. `pins`: 1 while a request's pin lasts. `returns`: how many
    requests used it after the first. `touched`: seconds of the last use. `bucket`: its label in
    the forecast. `gap`: band of its last idle time, 0 before the first. `size[t]`: bytes in tier t.
    `flags`: RECENT, CODED. `exact`: its copy in tier t lost nothing, though that tier's codec is
    lossy: bit t. `foreign`: 1 while no request of this process has had it in its chain, so that
    nobody here knows what it holds.
    `leaves[t]`: children that are resident or arriving in tier t (0: it is a leaf there); policies
    read it.
    """

    def __init__(self, *, max_ghosts: int, nominal: int = 1) -> None:
        self.nominal = nominal
        self.index: dict[bytes, int] = {}
        self.keys: list[bytes | None] = []
        self.parent = array("i")
        self.position = array("i")
        self.children = array("i")
        self.where = array("B")
        self.arriving = array("B")
        self.reads = array("H")
        self.pins = array("B")
        self.returns = array("H")
        self.touched = array("d")
        self.session = array("i")
        self.tenant = array("H")
        self.kind = array("B")
        self.priority = array("b")
        self.bucket = array("H")
        self.gap = array("B")
        self.flags = array("B")
        self.exact = array("B")
        self.foreign = array("B")
        self.size = [array("I") for _ in range(TIERS)]
        self.leaves = [array("i") for _ in range(TIERS)]
        self._max_ghosts = max_ghosts
        self._free: list[int] = []
        self._ghosts: deque[int] = deque()
        self._is_ghost = array("B")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def rows(self) -> int:
        """Rows allocated, free ones included; columns of policies are this long."""
        return len(self.keys)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Rows of the known prefix of a chain."""
        found = []
        get = self.index.get
        for key in keys:
            row = get(key)
            if row is None:
                break
            found.append(row)
        return found

    def add(
        self, key: bytes, *, parent: int, position: int, tenant: int, kind: int, now: float
    ) -> int:
        """A new row for a key that has none. `parent`: its row, or NO_ROW."""
        if not self._free:
            self._grow()
        row = self._free.pop()
        self.index[key] = row
        self.keys[row] = key
        self.parent[row], self.position[row] = parent, position
        self.tenant[row], self.kind[row], self.touched[row] = tenant, kind, now
        self.session[row] = -1
        self.priority[row] = self.bucket[row] = self.returns[row] = self.gap[row] = 0
        self.flags[row] = self.exact[row] = self.foreign[row] = 0
        if parent != NO_ROW:
            self.children[parent] += 1
        return row

    def set_arriving(self, row: int, tier: int) -> None:
        """Announce a copy in `tier`: from here on its parent is no leaf there."""
        bit = 1 << tier
        assert not (self.where[row] | self.arriving[row]) & bit, "a copy is there already"
        self.arriving[row] |= bit
        self._count_in_parent(row, tier, 1)

    def arrive(self, row: int, tier: int, size: int) -> None:
        """The announced copy is there, `size` bytes."""
        self.arriving[row] &= ~(1 << tier)
        self.where[row] |= 1 << tier
        self.size[tier][row] = size

    def remove_copy(self, row: int, tier: int) -> None:
        """Forget a copy, resident or announced. The row stays until `settle`."""
        mask = ~(1 << tier) & 0xFF
        self.where[row] &= mask
        self.arriving[row] &= mask
        self.exact[row] &= mask
        self.size[tier][row] = 0
        self._count_in_parent(row, tier, -1)

    def settle(self, row: int) -> None:
        """To be called when a row may have lost its last reason to live: it becomes a ghost, and
        the oldest ghosts beyond the bound are forgotten."""
        if self.keys[row] is None or self._is_ghost[row] or self._is_held(row):
            return
        self._is_ghost[row] = 1
        self._ghosts.append(row)
        while len(self._ghosts) > self._max_ghosts:
            oldest = self._ghosts.popleft()
            self._is_ghost[oldest] = 0
            self._forget(oldest)

    def evictable(self, row: int, tier: int) -> bool:
        """Resident in `tier`, unpinned, and no child of it is in that tier."""
        return (
            bool(self.where[row] >> tier & 1)
            and not self.reads[row]
            and not self.pins[row]
            and not self.leaves[tier][row]
        )

    def walk_up(self, row: int) -> Iterator[int]:
        """The row, its parent, and so on to the root."""
        while row != NO_ROW:
            yield row
            row = self.parent[row]

    def count_return(self, row: int) -> None:
        """One more request used it."""
        if self.returns[row] < _MAX_COUNT:
            self.returns[row] += 1

    def check(self) -> None:
        """Re-count links; raises AssertionError with what is wrong."""
        children = [0] * self.rows
        leaves = [[0] * self.rows for _ in range(TIERS)]
        for key, row in self.index.items():
            assert self.keys[row] == key, "index and keys differ"
            assert not self.where[row] & self.arriving[row], "resident and arriving at once"
            parent = self.parent[row]
            if parent == NO_ROW:
                continue
            assert self.keys[parent] is not None, "a parent row was freed"
            assert self.position[parent] == self.position[row] - 1, "positions do not follow"
            children[parent] += 1
            for tier in range(TIERS):
                leaves[tier][parent] += (self.where[row] | self.arriving[row]) >> tier & 1
        assert children == list(self.children), "children miscounted"
        for tier in range(TIERS):
            assert leaves[tier] == list(self.leaves[tier]), "children in a tier miscounted"
        assert len(self.index) + len(self._free) == self.rows, "a row is lost"
        assert len(self._ghosts) <= self._max_ghosts, "too many ghosts"

    def _grow(self) -> None:
        """More free rows, the lowest to be used first."""
        columns: tuple[array, ...] = (
            self.parent, self.position, self.children, self.where, self.arriving,
            self.reads, self.pins, self.returns, self.touched, self.session,
            self.tenant, self.kind, self.priority, self.bucket, self.gap, self._is_ghost,
            self.flags, self.exact, self.foreign,
            *self.size, *self.leaves,
        )  # fmt: skip
        for column in columns:
            column.frombytes(bytes(_ROWS_AT_ONCE * column.itemsize))
        self._free.extend(range(self.rows + _ROWS_AT_ONCE - 1, self.rows - 1, -1))
        self.keys.extend([None] * _ROWS_AT_ONCE)

    def _count_in_parent(self, row: int, tier: int, change: int) -> None:
        parent = self.parent[row]
        if parent != NO_ROW:
            self.leaves[tier][parent] += change

    def _is_held(self, row: int) -> bool:
        return bool(self.where[row] or self.arriving[row] or self.reads[row] or self.pins[row])

    def _forget(self, row: int) -> None:
        """Free the row and any ancestors that only it kept; a parent waits for its children."""
        while row != NO_ROW and not self._is_held(row) and not self.children[row]:
            if self._is_ghost[row]:
                return  # it has its own turn in the queue
            key, parent = self.keys[row], self.parent[row]
            assert key is not None
            del self.index[key]
            self.keys[row] = None
            self.parent[row] = NO_ROW
            self._free.append(row)
            if parent != NO_ROW:
                self.children[parent] -= 1
            row = parent
