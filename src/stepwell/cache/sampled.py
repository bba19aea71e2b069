"""Rows of the sampled chunks that shadow caches hold: what policies read of them, and their links.

One table for all shadow caches. A row lives while a cache holds it or a child row points at it. A
chunk's parent here is the nearest sampled chunk before it in its chain.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from stepwell.cache.chunks import NO_ROW, TIERS


class SampledRows:
    """Columns as in `ChunkTable`. `held`: bit c is set while cache c holds the row. `leaves[c]`:
    children that cache c holds. `size`: always 0, which policies read as `nominal`."""

    def __init__(self, *, caches: int, nominal: int) -> None:
        self.nominal = nominal
        self.index: dict[bytes, int] = {}
        self.keys: list[bytes | None] = []
        self.parent = array("i")
        self.position = array("i")
        self.children = array("i")
        self.touched = array("d")
        self.bucket = array("H")
        self.priority = array("b")
        self.held = array("H")
        self.leaves = [array("i") for _ in range(caches)]
        self.size = [array("I")] * TIERS
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.index)

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """Rows of the leading keys that have one."""
        rows = []
        for key in keys:
            row = self.index.get(key)
            if row is None:
                break
            rows.append(row)
        return rows

    def add(self, key: bytes, *, parent: int, position: int) -> int:
        """A new row for a key that has none. `parent`: its row, or NO_ROW."""
        row = self._free.pop() if self._free else self._append()
        self.index[key] = row
        self.keys[row] = key
        self.parent[row], self.position[row] = parent, position
        if parent != NO_ROW:
            self.children[parent] += 1
        return row

    def hold(self, row: int, cache: int) -> None:
        """A cache takes the row."""
        self.held[row] |= 1 << cache
        if self.parent[row] != NO_ROW:
            self.leaves[cache][self.parent[row]] += 1

    def let_go(self, row: int, cache: int) -> None:
        """A cache evicts the row. It stays until `settle`."""
        self.held[row] &= ~(1 << cache) & 0xFFFF
        if self.parent[row] != NO_ROW:
            self.leaves[cache][self.parent[row]] -= 1

    def settle(self, row: int) -> None:
        """Free the row, and ancestors that only it kept, unless something still needs it."""
        while row != NO_ROW and not self.held[row] and not self.children[row]:
            key, parent = self.keys[row], self.parent[row]
            if key is None:
                return
            del self.index[key]
            self.keys[row] = None
            self.parent[row] = NO_ROW
            self._free.append(row)
            if parent != NO_ROW:
                self.children[parent] -= 1
            row = parent

    def _append(self) -> int:
        columns: tuple[array, ...] = (
            self.parent, self.position, self.children, self.touched, self.bucket, self.priority,
            self.held, self.size[0], *self.leaves,
        )  # fmt: skip
        for column in columns:
            column.append(0)
        self.keys.append(None)
        return len(self.keys) - 1
