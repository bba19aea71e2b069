"""The books of the device pool: free, used and cached blocks, and the prefix index over them.

A block is always in exactly one of four states:

    free     holds nothing                      on the free stack
    used     reference count above zero         some sequence reads or writes it
    cached   reference count zero, has a key    readable by a later equal prefix; evictable
    unclean  must be overwritten before it is free again: see `forget`

Room is made from free blocks first, then from the least recently used cached ones, then from those
that pins protect (`device_pins.py`). Blocks of a sequence are released last block first, so that a
suffix is evicted before its prefix.

The keys of evicted blocks are remembered for a while (four times as many as there are blocks, some
100 bytes each), to count what returns after it was evicted: the price of a pool that is too small.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence

from stepwell.cache.device_pins import DevicePins

_PINNED_SHARE = 0.5
_REMEMBERED_PER_BLOCK = 4
_MOST_REMEMBERED = 1 << 20


class BlockPool:
    """Owns the state of every block id in [0, num_blocks). Not thread-safe: one engine owns it."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._kept: set[int] = set()  # cached and pinned
        self._worst: list[int] | None = None  # kept ones, the next to go last; None: to be sorted
        self._references = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._parents: list[bytes | None] = [None] * num_blocks  # key before a block's own
        self._index: dict[bytes, int] = {}
        self._unclean: list[int] = []
        self._tainted: set[int] = set()  # used; unclean once they are released
        self.pins = DevicePins(int(_PINNED_SHARE * num_blocks))
        self._evicted: OrderedDict[int, None] = OrderedDict()
        self._max_evicted = min(_REMEMBERED_PER_BLOCK * num_blocks, _MOST_REMEMBERED)
        self.evictions = 0
        self.pin_evictions = 0
        self.returns = 0

    @property
    def num_available(self) -> int:
        """Blocks that can be had now: free or evictable."""
        return len(self._free) + len(self._cached) + len(self._kept)

    @property
    def num_cached(self) -> int:
        """Blocks that only the prefix cache holds."""
        return len(self._cached) + len(self._kept)

    @property
    def num_kept(self) -> int:
        """Those of them that pins protect."""
        return len(self._kept)

    @property
    def num_used(self) -> int:
        """Blocks that some sequence holds."""
        return self.num_blocks - self.num_available - len(self._unclean)

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
                self._leave_cache(block)
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
            if block in self._tainted:
                self._tainted.discard(block)
                self._unpublish(block)
                self._unclean.append(block)
            elif self._keys[block] is None:
                self._free.append(block)
            else:
                self._enter_cache(block)

    def publish(self, block: int, key: bytes, parent: bytes | None) -> None:
        """Make a full block findable. A second block of the same key stays private. `parent`: key
        of the block before, None for the first."""
        if key not in self._index:
            self._index[key] = block
            self._keys[block] = key
            self._parents[block] = parent
            self._tainted.discard(block)  # every slot was written since

    def pin(self, name: str, keys: Sequence[bytes], *, worth: float) -> int:
        """Evict the blocks of these keys last, whenever they are here. Returns for how many of them
        there is room among the pins."""
        self.pins.set(name, keys, worth=worth)
        self._sort_cached()
        return self.pins.protected(name)

    def unpin(self, name: str) -> None:
        """Unknown names are ignored."""
        self.pins.drop(name)
        self._sort_cached()

    def forget(self, roots: frozenset[bytes] | None) -> frozenset[bytes]:
        """Nobody finds these keys any more, nor any whose chain contains one, nor any whose chain
        has lost a block before it (what that was, nobody knows). None: no key at all is found.

        Returns the keys that went. Their blocks, and all that are free, are to be overwritten
        (`take_unclean`); those in use when they are released, as are others in use that still may
        have older bytes in their last slots.
        """
        held = frozenset() if roots is None else self._reachable(roots)
        gone = frozenset(self._index.keys() - held)
        for key in gone:
            block = self._index[key]
            self._unpublish(block)
            if self._references[block]:
                self._tainted.add(block)
            else:
                self._leave_cache(block)
                self._unclean.append(block)
        self.pins.drop_holding(gone)
        self._sort_cached()
        used = (b for b in range(self.num_blocks) if self._references[b] and self._keys[b] is None)
        self._tainted.update(used)
        self._unclean += self._free
        self._free = []
        return gone

    def taint(self, blocks: Iterable[int]) -> None:
        """These, which are in use, are to be overwritten once nobody uses them."""
        self._tainted.update(blocks)

    def take_unclean(self) -> list[int]:
        """Blocks to overwrite now; nobody gets them before `cleaned`."""
        return list(self._unclean)

    def cleaned(self, blocks: Sequence[int]) -> None:
        """They hold zeros."""
        done = set(blocks)
        self._unclean = [block for block in self._unclean if block not in done]
        self._free += blocks

    def count_returns(self, keys: Iterable[bytes]) -> None:
        """Blocks of these keys are filled again: count those that had been evicted."""
        if self._evicted:
            self.returns += sum(_short(key) in self._evicted for key in keys)

    def clear_cached(self) -> int:
        """Evict all cached blocks; returns how many."""
        count = self.num_cached
        while self.num_cached:
            self._evict_one()
        return count

    def check(self) -> None:
        """Re-count everything; raises AssertionError with what is wrong."""
        free, cached = set(self._free), set(self._cached) | self._kept
        unclean = set(self._unclean)
        used = {b for b, count in enumerate(self._references) if count}
        assert len(free) == len(self._free), "a block is on the free stack twice"
        assert not (free & cached or free & used or cached & used), "a block has two states"
        assert not unclean & (free | cached | used), "an unclean block has two states"
        assert not self._kept & set(self._cached), "a block is pinned and not"
        total = len(free) + len(cached) + len(used) + len(unclean)
        assert total == self.num_blocks, "a block is lost"
        assert self._tainted <= used, "a tainted block is not in use"
        ranked = {b for b in cached if self.pins.rank(self._keys[b]) is not None}
        assert ranked == self._kept, "pinned blocks miscounted"
        assert all(self._keys[b] is None for b in free | unclean), "a free block has a key"
        assert all(self._keys[b] is not None for b in cached), "a cached block has no key"
        assert all(self._keys[b] == key for key, b in self._index.items()), "index and keys differ"
        keyed = sum(key is not None for key in self._keys)
        assert keyed == len(self._index), "a key is not indexed"

    def _take_one(self) -> int:
        if not self._free:
            self._evict_one()
        block = self._free.pop()
        self._references[block] = 1
        return block

    def _evict_one(self) -> None:
        """The least recently used, else the least worth of the pinned."""
        if self._cached:
            block, _ = self._cached.popitem(last=False)
        else:
            block = self._worst_kept()
            self.pin_evictions += 1
        key = self._keys[block]
        assert key is not None
        self._unpublish(block)
        self._free.append(block)
        self.evictions += 1
        self._evicted[_short(key)] = None
        if len(self._evicted) > self._max_evicted:
            self._evicted.popitem(last=False)

    def _worst_kept(self) -> int:
        """Takes it out."""
        if self._worst is None:
            self._worst = sorted(self._kept, key=lambda b: self.pins.rank(self._keys[b]) or 0)
        while (block := self._worst.pop()) not in self._kept:
            pass
        self._kept.discard(block)
        return block

    def _enter_cache(self, block: int) -> None:
        if self.pins.rank(self._keys[block]) is None:
            self._cached[block] = None
        else:
            self._kept.add(block)
            self._worst = None

    def _leave_cache(self, block: int) -> None:
        if block in self._kept:
            self._kept.discard(block)
        else:
            del self._cached[block]

    def _sort_cached(self) -> None:
        """Pins have changed: who is cached, is it as pinned or not?"""
        for block in [*self._kept, *self._cached]:
            if (self.pins.rank(self._keys[block]) is not None) != (block in self._kept):
                self._leave_cache(block)
                self._enter_cache(block)
        self._worst = None

    def _unpublish(self, block: int) -> None:
        key = self._keys[block]
        if key is not None:
            del self._index[key]
            self._keys[block] = self._parents[block] = None

    def _reachable(self, roots: frozenset[bytes]) -> set[bytes]:
        """Keys whose whole chain is here, and has none of the roots."""
        children: dict[bytes | None, list[bytes]] = defaultdict(list)
        for key, block in self._index.items():
            if key not in roots:
                children[self._parents[block]].append(key)
        found: set[bytes] = set()
        front = list(children[None])
        while front:
            key = front.pop()
            found.add(key)
            front += children[key]
        return found


def _short(key: bytes) -> int:
    """Enough of a key to count by."""
    return int.from_bytes(key[:8], "little")
