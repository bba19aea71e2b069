"""Transfers of a pool that the CPU cannot touch: through staging memory, by a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from stepwell.base.hierarchy import Event, LoadChunk, Order, StoreChunk, TierName
from stepwell.engine.staging.contract import BlocksRead, Copies
from stepwell.engine.staging.desk import Cancel, StagingDesk
from stepwell.engine.staging.pump import Pump
from stepwell.engine.staging.slots import Direction, Slots
from stepwell.engine.staging.transfer import Transfer
from stepwell.tier.mover import LaneConfig, Mover

MakeMover = Callable[[Callable[[], None]], Mover]
"""Makes a mover that calls this when it has reports."""
_COPY_SECONDS = 10.0  # what a device may take at the end for copies under way


class StagedTransfers:
    """What the engine calls; the pump does it. Nothing here waits but `wait` and `close`."""

    def __init__(
        self,
        make_mover: MakeMover,
        copies: Copies,
        *,
        tiers: Sequence[TierName],
        chunk_blocks: int,
        in_flight: int,
        on_ready: Callable[[], None],
        store_backlog: int = LaneConfig().store_backlog,
    ) -> None:
        """`in_flight`: slots of `chunk_blocks` blocks for each tier and direction, allocated here.
        `on_ready`: called from any thread when `poll` has come to have something to give. Raises
        HardwareError."""
        groups = [(tier, direction) for tier in tiers for direction in Direction]
        memory = copies.allocate(len(groups) * in_flight * chunk_blocks)
        slots = Slots(memory, groups=groups, per_group=in_flight, chunk_blocks=chunk_blocks)
        self.staging_bytes = memory.numel()
        self._copies = copies
        self._desk = StagingDesk(on_ready)
        self._mover = make_mover(self._desk.ring)
        self._pump = Pump(self._desk, self._mover, copies, slots, store_backlog=store_backlog)
        self._closed = False
        self._hung: frozenset[TierName] = frozenset()

    def submit(self, order: Order, blocks: Sequence[int] = ()) -> None:
        """See `Transfers`."""
        if self._closed:
            raise RuntimeError("transfers are closed")
        if isinstance(order, (LoadChunk, StoreChunk)):
            now, after = time.monotonic(), self._copies.mark()
            self._desk.ask([Transfer(order, tuple(blocks), after, now)])
        else:
            self._desk.ask([order])

    def poll(self) -> list[Event | BlocksRead]:
        """See `Transfers`."""
        return self._desk.take_news()

    def wait(self, timeout: float) -> bool:
        """See `Transfers`."""
        return self._desk.wait_for_news(timeout)

    def cancel(self, order_ids: Iterable[int]) -> None:
        """See `Transfers`."""
        self._desk.ask([Cancel(order_id) for order_id in order_ids])

    def close(self, timeout: float) -> frozenset[TierName]:
        """See `Transfers`. A copy that the device does not end is never reported, and a tier that
        hangs keeps its slot: both stay allocated until the process ends."""
        if self._closed:
            return self._hung
        self._closed = True
        end = time.monotonic() + timeout
        self._desk.close()
        if not self._pump.join(timeout):
            self._desk.stop()
            self._pump.join(_COPY_SECONDS)
        self._hung = self._mover.close(max(0.0, end - time.monotonic()))
        self._copies.close(_COPY_SECONDS)
        self._pump.finish()
        return self._hung
