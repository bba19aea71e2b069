"""The books of the device pool: free, used and cached blocks, and the prefix index over them.

A block is always in exactly one of three states:

    free    holds nothing                      on the free stack
    used    reference count above zero         some sequence reads or writes it
    cached  reference count zero, has a key    readable by a later equal prefix; evictable

Room is made from free blocks first, then from the least recently used cached ones. Blocks of a
sequence are released last block first, so that a suffix is evicted before its prefix.

The keys of evicted blocks are remembered for a while (four times as many as there are blocks, some
100 bytes each), to count what returns after it was evicted: the price of a pool that is too small.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

_REMEMBERED_PER_BLOCK = 4
_MOST_REMEMBERED = 1 << 20


class BlockPool:
    """Owns the state of every block id in [0, num_blocks). Not thread-safe: one engine owns it."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._references = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._index: dict[bytes, int] = {}
        self._evicted: OrderedDict[int, None] = OrderedDict()
        self._max_evicted = min(_REMEMBERED_PER_BLOCK * num_blocks, _MOST_REMEMBERED)
        self.evictions = 0
        self.returns = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be had now: free or evictable."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks that only the prefix cache holds."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_blocks - self.num_available

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Blocks of the longest known prefix of `keys`. Acquires nothing."""
        blocks = []
        for key in keys:
            block = self._index.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_evictable_of(self, blocks: Iterable[int]) -> int:
        """How many of these blocks would leave the available ones when acquired."""
        return sum(1 for block in blocks if self._references[block] == 0)

    def acquire(self, blocks: Iterable[int]) -> None:
        """Take one reference on each; a cached block stops being evictable."""
        for block in blocks:
            if self._references[block] == 0:
                del self._cached[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int]:
        """`count` empty blocks with one reference each, evicting where needed.

        The caller has checked `num_available`; asking for more is a bug.
        """
        assert count <= self.num_available, "allocate() beyond what is available"
        return [self._take_one() for _ in range(count)]

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference on each, last block first."""
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} released twice"
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._keys[block] is None:
                self._free.append(block)
            else:
                self._cached[block] = None

    def publish(self, block: int, key: bytes) -> None:
        """Make a full block findable. A second block of the same key stays private."""
        if key not in self._index:
            self._index[key] = block
            self._keys[block] = key

    def count_returns(self, keys: Iterable[bytes]) -> None:
        """Blocks of these keys are filled again: count those that had been evicted."""
        if self._evicted:
            self.returns += sum(_short(key) in self._evicted for key in keys)

    def clear_cached(self) -> int:
        """Evict all cached blocks; returns how many."""
        count = len(self._cached)
        while self._cached:
            self._evict_oldest()
        return count

    def check(self) -> None:
        """Re-count everything; raises AssertionError with what is wrong."""
        free, cached = set(self._free), set(self._cached)
        used = {b for b, count in enumerate(self._references) if count}
        assert len(free) == len(self._free), "a block is on the free stack twice"
        assert not (free & cached or free & used or cached & used), "a block has two states"
        assert len(free) + len(cached) + len(used) == self.num_blocks, "a block is lost"
        assert all(self._keys[b] is None for b in free), "a free block has a key"
        assert all(self._keys[b] is not None for b in cached), "a cached block has no key"
        assert all(self._keys[b] == key for key, b in self._index.items()), "index and keys differ"
        keyed = sum(key is not None for key in self._keys)
        assert keyed == len(self._index), "a key is not indexed"

    def _take_one(self) -> int:
        if not self._free:
            self._evict_oldest()
        block = self._free.pop()
        self._references[block] = 1
        return block

    def _evict_oldest(self) -> None:
        block, _ = self._cached.popitem(last=False)
        key = self._keys[block]
        assert key is not None
        del self._index[key]
        self._keys[block] = None
        self._free.append(block)
        self.evictions += 1
        self._evicted[_short(key)] = None
        if len(self._evicted) > self._max_evicted:
            self._evicted.popitem(last=False)


def _short(key: bytes) -> int:
    """Enough of a key to count by."""
    return int.from_bytes(key[:8], "little")
