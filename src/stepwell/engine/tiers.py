"""The engine as a body of the brain: its orders are carried out, their reports go to the brain.

Owns: which device blocks each transfer uses (they are held until it is through with them), and the
loads of each admitted sequence. Does not own: any decision (`cache/hierarchy.py`), copies between
blocks and the mover (`staging`), threads and deadlines (`tier/mover`), or block tables
(`cache/manager.py`). One thread, the engine's, calls everything
here but `on_ready`.

    arrive     ask a shared tier what it has         sequence.lookup
    plan       what to restore for the queue's head  changes nothing
    begin      it was admitted: loads start          sequence.restore
    overtake   computing stands at a pending chunk   its load is cancelled
    collect    reports: landed chunks count as computed
    close      reply over, or preempted: its chunks may be stored
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepwell.base.hierarchy import (
    Failure,
    LoadChunk,
    LookupReport,
    Order,
    StoreChunk,
    TransferReport,
)
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.manager import CacheManager, PrefixMatch
from stepwell.cache.marks import Roots
from stepwell.cache.plan import ChainRequest, RestoreMode, RestorePlan
from stepwell.engine.restore import Pace, Restore
from stepwell.engine.sequence import Sequence as Seq
from stepwell.engine.staging import BlocksRead, Transfers

_STORE_SECONDS = 3.0  # a store that has not begun by then is not worth its device blocks


@dataclass(frozen=True, slots=True)
class _Load:
    """A LoadChunk under way: for whom, which chunk, into which blocks."""

    sequence: Seq
    restore: Restore
    index: int
    blocks: list[int]


class Tiers:
    """The lower tiers as the scheduler and the engine see them."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        transfers: Transfers,
        cache: CacheManager,
        *,
        chunk_blocks: int,
    ) -> None:
        self.hierarchy = hierarchy
        self.transfers = transfers
        self._cache = cache
        cache.marks.chunk_blocks = chunk_blocks
        self._chunk_blocks = chunk_blocks
        self._chunk_tokens = chunk_blocks * cache.block_size
        self._loads: dict[int, _Load] = {}
        self._stores: dict[int, tuple[list[int], float]] = {}  # those whose blocks are held
        self._lookups: dict[int, Seq] = {}
        self._sources: dict[bytes, list[int]] = {}
        self.restored_tokens = 0
        self.on_ready: Callable[[], None] = lambda: None

    def ring(self) -> None:
        """Called on any thread: there are reports. `on_ready` hears of it."""
        self.on_ready()

    @property
    def awaited(self) -> bool:
        """Whether a transfer or an answer that some sequence waits for is under way."""
        return bool(self._loads or self._lookups)

    def arrive(self, sequence: Seq, now: float) -> None:
        """A sequence joined the queue: find out what a shared tier has of it."""
        order = self.hierarchy.lookup(self._request(sequence, PrefixMatch()), now)
        if order is not None:
            sequence.lookup = order.order_id
            self._lookups[order.order_id] = sequence
            self.transfers.submit(order)

    def plan(self, sequence: Seq, match: PrefixMatch, now: float, *, ahead: int) -> RestorePlan:
        """What to restore, given what the device has. `ahead`: prompt tokens that are computed
        before this sequence's."""
        return self.hierarchy.plan(self._request(sequence, match), now=now, waiting_tokens=ahead)

    def match_for(self, plan: RestorePlan, match: PrefixMatch) -> PrefixMatch:
        """The match to admit with. A load writes whole chunks, and never into shared blocks: a
        shared part of the first loaded chunk is given up."""
        if not plan.spans or match.tokens <= plan.start * self._chunk_tokens:
            return match
        return match.up_to(plan.start * self._chunk_blocks, self._cache.block_size)

    def without_loads(self, plan: RestorePlan) -> RestorePlan:
        """The same plan, computing everything: there is no room for what it would load."""
        return replace(plan, mode=RestoreMode.NONE, spans=())

    def tokens_for(self, plan: RestorePlan) -> int:
        """Tokens from the front whose blocks the loads need."""
        return plan.stop * self._chunk_tokens if plan.spans else 0

    def begin(self, sequence: Seq, plan: RestorePlan, now: float) -> None:
        """The sequence is admitted, with blocks for `tokens_for(plan)`: start its loads."""
        orders = self.hierarchy.begin(plan, now)
        if not orders:
            return
        pace = Pace.WAIT if plan.mode is RestoreMode.LOAD else Pace.OVERTAKE
        restore = Restore(self._chunk_tokens, pace)
        restore.pending = {order.index: order.order_id for order in orders}
        sequence.restore = restore
        table = self._cache.blocks_of(sequence.sequence_id)
        for order in orders:
            first = order.index * self._chunk_blocks
            blocks = table[first : first + self._chunk_blocks]
            self._submit_load(order, _Load(sequence, restore, order.index, blocks))

    def overtake(self, sequence: Seq, budget: int, now: float) -> None:
        """Before a step: let computing pass what it has caught up with."""
        restore = sequence.restore
        if restore is None:
            return
        reached = restore.reached(sequence.computed, budget)
        if reached:
            self.transfers.cancel(reached)
            self.collect(now)  # may end the restore
        if sequence.restore is not None:
            self._advance(sequence)

    def collect(self, now: float) -> None:
        """Take the reports to the brain and to the sequences."""
        for event in self.transfers.poll():
            if isinstance(event, BlocksRead):
                self._let_go_of_store(event.order_id)
                continue
            self.hierarchy.report(event)
            if isinstance(event, LookupReport):
                sequence = self._lookups.pop(event.order_id, None)
                if sequence is not None and sequence.lookup == event.order_id:
                    sequence.lookup = None
            elif isinstance(event, TransferReport):
                self._ended(event)

    def tick(self, now: float) -> None:
        """Once a step, and now and then while idle."""
        self.collect(now)
        self._give_up_stores(now)
        self.hierarchy.tick(now)
        self._carry_out(now)

    def close(self, sequence: Seq, now: float) -> None:
        """The sequence leaves its blocks (they are still its own): end its loads, offer its
        chunks for storing."""
        if sequence.lookup is not None:
            self.transfers.cancel([sequence.lookup])
            sequence.lookup = None
        if sequence.restore is not None:
            self.transfers.cancel(sequence.restore.pending.values())
            sequence.restore = None
        size = self._chunk_blocks
        keys = self._cache.published_keys(sequence.sequence_id)[size - 1 :: size]
        if not sequence.request.store or sequence.packed is not None:
            keys = []
        table = self._cache.blocks_of(sequence.sequence_id)
        self._sources = {key: table[i * size : (i + 1) * size] for i, key in enumerate(keys)}
        self.hierarchy.close(sequence.sequence_id, keys, len(keys), now)
        self._carry_out(now)
        self._sources = {}

    def pin_prefix(self, name: str, keys: Sequence[bytes], now: float) -> int:
        """Protect what lower tiers have of a prefix of these blocks; in tokens."""
        size = self._chunk_blocks
        return self._chunk_tokens * self.hierarchy.pin_prefix(name, keys[size - 1 :: size], now)

    def forget(self, tenant: str, roots: Roots, now: float) -> int:
        """See `Hierarchy.forget`."""
        count = self.hierarchy.forget(tenant, roots, now)
        self._carry_out(now)
        return count

    def observe(self, *, tokens: int, context: int, seconds: float, now: float) -> None:
        """A step computed `tokens` prompt tokens behind `context` others."""
        self.hierarchy.computed(tokens=tokens, context=context, seconds=seconds, now=now)

    def leave_queue(self, sequence: Seq) -> None:
        """A sequence that was never admitted is gone."""
        if sequence.lookup is not None:
            self.transfers.cancel([sequence.lookup])
            sequence.lookup = None

    def _submit_load(self, order: LoadChunk, load: _Load) -> None:
        self._cache.hold(load.blocks)
        self._loads[order.order_id] = load
        self.transfers.submit(order, load.blocks)

    def _carry_out(self, now: float) -> None:
        for order in self.hierarchy.take_orders():
            self._carry_out_one(order, now)

    def _carry_out_one(self, order: Order, now: float) -> None:
        if not isinstance(order, StoreChunk):
            self.transfers.submit(order)
            return
        blocks = self._sources.get(order.key)
        if blocks is None:  # its sequence has left the device meanwhile
            self.hierarchy.report(
                TransferReport(
                    order_id=order.order_id,
                    now=now,
                    seconds=0.0,
                    queued=0.0,
                    size=0,
                    failure=Failure.MISSING,
                )
            )
            return
        self._cache.hold(blocks)
        self._stores[order.order_id] = (blocks, now)
        self.transfers.submit(order, blocks)

    def _give_up_stores(self, now: float) -> None:
        """A tier that hangs must not hold the device's blocks: what has waited too long to begin
        is cancelled, oldest first."""
        late = []
        for order_id, (_, submitted) in self._stores.items():
            if now - submitted < _STORE_SECONDS:
                break
            late.append(order_id)
        if late:
            self.transfers.cancel(late)
            self.collect(now)

    def _ended(self, event: TransferReport) -> None:
        self._let_go_of_store(event.order_id)
        load = self._loads.pop(event.order_id, None)
        if load is None:
            return  # a store, or a move between lower tiers
        self._cache.let_go(load.blocks)
        load.restore.ended(load.index, arrived=event.failure is None)
        if load.sequence.restore is load.restore:
            self._advance(load.sequence)

    def _let_go_of_store(self, order_id: int) -> None:
        """Its blocks have been read, or never will be."""
        store = self._stores.pop(order_id, None)
        if store is not None:
            self._cache.let_go(store[0])

    def _advance(self, sequence: Seq) -> None:
        """Count landed chunks as computed, so that others find them too."""
        restore = sequence.restore
        assert restore is not None
        if restore.pace is Pace.OVERTAKE or not restore.pending:
            computed = restore.advance(sequence.computed, last=len(sequence.token_ids) - 1)
            gained = computed - sequence.computed
            if gained:
                sequence.computed = computed
                self.restored_tokens += gained
                if sequence.first_token_at is None and sequence.cached is not None:
                    sequence.cached += gained
                self._cache.commit(sequence.sequence_id, sequence.token_ids, computed=computed)
        if restore.over:
            sequence.restore = None

    def _request(self, sequence: Seq, match: PrefixMatch) -> ChainRequest:
        request, size = sequence.request, self._chunk_blocks
        return ChainRequest(
            request_id=sequence.sequence_id,
            keys=sequence.keys[size - 1 :: size],
            tokens=len(sequence.token_ids),
            device_chunks=len(match.blocks) // size,
            tenant=request.tenant,
            session_id=request.session_id,
            workload=request.workload,
            priority=request.priority,
            ttl=request.ttl,
            pin=request.pin,
        )
