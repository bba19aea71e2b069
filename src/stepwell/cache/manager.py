"""Block tables of the running sequences: admission with prefix hits, growth, commit, release.

Life of a sequence here:

    lookup   how many of its tokens are in the pool already          (changes nothing)
    admit    take those blocks, and new ones for the first chunk
    grow     new blocks for the next tokens, or NO_ROOM
    commit   tokens are in the pool: full blocks get keys and can be found by others
    drop     the front's blocks go back while the sequence goes on (its K,V are kept elsewhere)
    release  blocks go back; those with keys stay cached until evicted

A prompt of which *every* block is cached still needs its last token computed, to have logits. The
last block is then copied into a private one (`CopyBlock`) and one token is recomputed in the copy,
so no shared block is ever written.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.base.prefix import Mark
from stepwell.cache.blocks import BlockPool
from stepwell.cache.keys import extend_keys, root_key
from stepwell.cache.marks import MarkIndex, Roots

_MOST_ERASED = 65_536  # labels that late requests may still carry


class Room(enum.Enum):
    """Answer to admit() and grow()."""

    GRANTED = "granted"
    NO_ROOM = "no room"


@dataclass(frozen=True, slots=True)
class CopyBlock:
    """Order: copy a whole block of the pool, before anything of this step is written.

    The source stays referenced until `complete(order)`.
    """

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """What the pool holds of a sequence: `tokens` computed tokens in `blocks`.

    With `copy_last` the last block is to be copied rather than shared. `awaited`: another
    sequence is computing the next block at this moment, so waiting for it saves work.
    """

    tokens: int = 0
    blocks: tuple[int, ...] = ()
    copy_last: bool = False
    awaited: bool = False

    def up_to(self, blocks: int, block_size: int) -> PrefixMatch:
        """The same match less what lies behind the first `blocks` blocks."""
        return PrefixMatch(tokens=blocks * block_size, blocks=self.blocks[:blocks])

    def without_copy(self, block_size: int) -> PrefixMatch:
        """The same match less its last block, for when there is no room for the copy."""
        assert self.copy_last
        return PrefixMatch(tokens=(len(self.blocks) - 1) * block_size, blocks=self.blocks[:-1])


@dataclass(frozen=True, slots=True)
class Forgotten:
    """`roots`: what the labels were in, for the lower tiers. `blocks`: how many are found no more.
    `live`: sequences that go on with some of it."""

    roots: Roots
    blocks: int
    live: int


@dataclass(slots=True)
class BlockTable:
    """One sequence's blocks. `keys` covers the full blocks of the tokens seen so far; the first
    `published` of them are in the prefix index. `awaited`: keys that it announced at admission.
    `dropped`: blocks of the front that are in `blocks` no more. `private`: from this block on
    nothing is published, since it holds what was erased; None: all is."""

    root: bytes
    tenant: str = ""
    marks: tuple[Mark, ...] = ()
    private: int | None = None
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    tokens: int = 0
    published: int = 0
    awaited: list[bytes] = field(default_factory=list)
    dropped: int = 0


class CacheManager:
    """Block tables by sequence id, over one BlockPool. Not thread-safe: one engine owns it."""

    def __init__(
        self, *, num_blocks: int, block_size: int, namespace: bytes, prefix_caching: bool = True
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self._namespace = namespace
        self._prefix_caching = prefix_caching
        self._tables: dict[str, BlockTable] = {}
        self._awaited: dict[bytes, str] = {}
        self._orders: list[CopyBlock] = []
        self._in_flight: set[CopyBlock] = set()
        self._transfers: Counter[int] = Counter()
        self.marks = MarkIndex()
        self._erased: OrderedDict[tuple[str, str], None] = OrderedDict()

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens occupy."""
        return -(-tokens // self.block_size)

    def lookup(self, tokens: Sequence[int], *, tenant: str, keys: list[bytes]) -> PrefixMatch:
        """The longest computed prefix of `tokens`. `keys` is the caller's store of this
        sequence's keys and is extended here, so that a waiting request is hashed once."""
        if not self._prefix_caching:
            return PrefixMatch()
        self.extend_keys(keys, tokens, tenant=tenant)
        whole = len(keys) * self.block_size == len(tokens)
        blocks = self.pool.find(keys)
        if whole and blocks and len(blocks) == len(keys):
            return PrefixMatch(tokens=len(tokens) - 1, blocks=tuple(blocks), copy_last=True)
        awaited = len(blocks) < len(keys) and keys[len(blocks)] in self._awaited
        return PrefixMatch(
            tokens=len(blocks) * self.block_size, blocks=tuple(blocks), awaited=awaited
        )

    def extend_keys(self, keys: list[bytes], tokens: Sequence[int], *, tenant: str) -> None:
        """Add the keys of the full blocks of `tokens` that `keys` does not have yet."""
        root = root_key(self._namespace, tenant)
        full = len(tokens) // self.block_size
        extend_keys(keys, tokens, count=full, block_size=self.block_size, root=root)

    def room_needed(self, match: PrefixMatch, tokens: int) -> int:
        """Available blocks that a sequence of `tokens` tokens takes, given its match."""
        shared = match.blocks[:-1] if match.copy_last else match.blocks
        fresh = self.blocks_for(tokens) - len(shared)
        return fresh + self.pool.num_evictable_of(match.blocks)

    def admit(
        self, sequence_id: str, match: PrefixMatch, *, tenant: str, tokens: int, keys: list[bytes],
        marks: tuple[Mark, ...] = (),
    ) -> Room:  # fmt: skip
        """Open a block table with room for the first `tokens` tokens, the matched ones included.

        On NO_ROOM nothing has changed.
        """
        assert sequence_id not in self._tables, "admitted twice"
        if self.room_needed(match, tokens) > self.pool.num_available:
            return Room.NO_ROOM
        table = BlockTable(
            root=root_key(self._namespace, tenant), tenant=tenant, marks=marks, tokens=match.tokens
        )
        table.private = self._private_from(table)
        self.pool.acquire(match.blocks)
        table.blocks = list(match.blocks)
        table.published = len(match.blocks)
        table.keys = keys[: len(match.blocks)]
        if match.copy_last:
            self._copy_last(table)
        self._tables[sequence_id] = table
        table.blocks += self.pool.allocate(self.blocks_for(tokens) - len(table.blocks))
        table.awaited = keys[table.published : table.private]
        self.pool.count_returns(table.awaited)
        for key in table.awaited:
            self._awaited.setdefault(key, sequence_id)
        return Room.GRANTED

    def grow(self, sequence_id: str, *, tokens: int) -> Room:
        """Make room for the first `tokens` tokens of an admitted sequence."""
        table = self._tables[sequence_id]
        missing = self.blocks_for(tokens) - table.dropped - len(table.blocks)
        if missing > self.pool.num_available:
            return Room.NO_ROOM
        if missing > 0:
            table.blocks += self.pool.allocate(missing)
        return Room.GRANTED

    def commit(self, sequence_id: str, tokens: Sequence[int], *, computed: int) -> None:
        """The first `computed` of `tokens` are in the pool; publish the blocks they fill."""
        table = self._tables[sequence_id]
        table.tokens = computed
        full = computed // self.block_size
        if table.private is not None:
            full = min(full, table.private)
        if not self._prefix_caching or full <= table.published or table.dropped:
            return  # what was computed behind a dropped front is exact no more
        extend_keys(table.keys, tokens, count=full, block_size=self.block_size, root=table.root)
        for position in range(table.published, full):
            key = table.keys[position]
            parent = table.keys[position - 1] if position else None
            self.pool.publish(table.blocks[position], key, parent)
            if self._awaited.get(key) == sequence_id:
                del self._awaited[key]
        table.published = full

    def drop_front(self, sequence_id: str, *, blocks: int) -> None:
        """Give up the first `blocks` resident blocks of a sequence. They must be computed."""
        table = self._tables[sequence_id]
        assert (table.dropped + blocks) * self.block_size <= table.tokens, "not computed yet"
        self._stop_announcing(sequence_id, table)
        if table.private is not None:
            self.pool.taint(table.blocks[max(0, table.private - table.dropped) : blocks])
        self.pool.release(table.blocks[:blocks])
        del table.blocks[:blocks]
        table.dropped += blocks

    def dropped_of(self, sequence_id: str) -> int:
        """Blocks that the front of an admitted sequence has lost."""
        return self._tables[sequence_id].dropped

    def release(self, sequence_id: str) -> None:
        """Close the table. Published blocks stay cached."""
        table = self._tables.pop(sequence_id)
        self.marks.note(
            table.tenant, table.marks, table.keys[: table.published], block_size=self.block_size
        )
        if table.private is not None:
            self.pool.taint(table.blocks[max(0, table.private - table.dropped) :])
        self.pool.release(table.blocks)
        self._stop_announcing(sequence_id, table)

    def keys_of(self, tokens: Sequence[int], *, tenant: str) -> list[bytes]:
        """Keys of the full blocks of these tokens."""
        keys: list[bytes] = []
        self.extend_keys(keys, tokens, tenant=tenant)
        return keys

    def forget(self, tenant: str, labels: Sequence[str]) -> Forgotten:
        """What these labels name is found by nobody any more, neither what was computed so far nor
        what live sequences, or those that come later with these marks, still compute."""
        for label in labels:
            self._erased[tenant, label] = None
        while len(self._erased) > _MOST_ERASED:
            self._erased.popitem(last=False)
        roots = self.marks.roots(tenant, labels)
        published = self._roots_of_live(tenant, labels)
        gone = self.pool.forget(None if roots.everything else roots.blocks | published)
        self.marks.forgotten(tenant, labels)
        own = [name for name, table in self._tables.items() if table.tenant == tenant]
        live = sum(self._make_private(name, gone, everything=roots.everything) for name in own)
        return Forgotten(roots=roots, blocks=len(gone), live=live)

    def _roots_of_live(self, tenant: str, labels: Sequence[str]) -> frozenset[bytes]:
        """First keys of what admitted sequences have published of these labels."""
        wanted, found = set(labels), set()
        for table in self._tables.values():
            for mark in table.marks:
                first = mark.start // self.block_size
                if table.tenant == tenant and wanted & set(mark.labels) and first < table.published:
                    found.add(table.keys[first])
        return frozenset(found)

    def _make_private(self, sequence_id: str, gone: frozenset[bytes], *, everything: bool) -> bool:
        """Whether a live sequence holds some of it: then it publishes no more."""
        table = self._tables[sequence_id]
        places = [i for i, key in enumerate(table.keys[: table.published]) if key in gone][:1]
        marked = self._private_from(table)
        first = min([0] if everything else [*places, *([] if marked is None else [marked])],
                    default=None)  # fmt: skip
        if first is None or (table.private is not None and table.private <= first):
            return first is not None
        table.private = first
        self._stop_announcing(sequence_id, table)
        del table.keys[first:]
        table.published = min(table.published, first)
        return True

    def _private_from(self, table: BlockTable) -> int | None:
        """The block from which on a sequence holds what was erased."""
        starts = [
            mark.start // self.block_size
            for mark in table.marks
            if any((table.tenant, label) in self._erased for label in mark.labels)
        ]
        return min(starts, default=None)

    def blocks_of(self, sequence_id: str) -> list[int]:
        """Block ids of an admitted sequence, in order, from its dropped front on. The caller does
        not change the list."""
        return self._tables[sequence_id].blocks

    def take_orders(self) -> list[CopyBlock]:
        """Orders since the last call; each must be carried out and completed."""
        orders, self._orders = self._orders, []
        self._in_flight.update(orders)
        return orders

    def complete(self, order: CopyBlock) -> None:
        """The copy is done: let go of its source."""
        self._in_flight.remove(order)
        self.pool.release([order.source])

    def published_keys(self, sequence_id: str) -> list[bytes]:
        """Keys of the blocks of an admitted sequence that are whole, in order."""
        table = self._tables[sequence_id]
        return table.keys[: table.published]

    def hold(self, blocks: Sequence[int]) -> None:
        """A transfer reads or writes these: they stay used until `let_go`, whatever becomes of
        their sequence."""
        self.pool.acquire(blocks)
        self._transfers.update(blocks)

    def let_go(self, blocks: Sequence[int]) -> None:
        """The transfer was reported."""
        for block in blocks:
            self._transfers[block] -= 1
            if not self._transfers[block]:
                del self._transfers[block]
        self.pool.release(blocks)

    def unused_slots(self) -> int:
        """Token slots in used blocks that hold no token."""
        size = self.block_size
        return sum((t.dropped + len(t.blocks)) * size - t.tokens for t in self._tables.values())

    def check(self) -> None:
        """Re-count blocks and tables; raises AssertionError with what is wrong."""
        self.pool.check()
        held: dict[int, int] = {}
        for table in self._tables.values():
            assert len(set(table.blocks)) == len(table.blocks), "a block twice in one table"
            held_tokens = (table.dropped + len(table.blocks)) * self.block_size
            assert table.tokens <= held_tokens, "tokens beyond the blocks"
            for block in table.blocks:
                held[block] = held.get(block, 0) + 1
        for order in [*self._orders, *self._in_flight]:
            held[order.source] = held.get(order.source, 0) + 1
        for block in self._transfers:
            held[block] = held.get(block, 0) + self._transfers[block]
        assert self.pool.num_used == len(held), "a used block belongs to no sequence"
        assert set(self._awaited.values()) <= set(self._tables), "awaiting a sequence that is gone"

    def _stop_announcing(self, sequence_id: str, table: BlockTable) -> None:
        """Nobody is to wait for its blocks any more."""
        for key in table.awaited:
            if self._awaited.get(key) == sequence_id:
                del self._awaited[key]

    def _copy_last(self, table: BlockTable) -> None:
        """Replace the shared last block by a private one; the order holds the shared one."""
        source = table.blocks.pop()
        table.published -= 1
        table.keys.pop()
        (target,) = self.pool.allocate(1)
        table.blocks.append(target)
        self._orders.append(CopyBlock(source=source, target=target))
