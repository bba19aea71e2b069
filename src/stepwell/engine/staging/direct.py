"""Transfers of a pool that the CPU can read and write: the mover gets views of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stepwell.base.hierarchy import Event, LoadChunk, Order, StoreChunk, TierName
from stepwell.engine.staging.contract import BlocksRead
from stepwell.tier.contract import Buffer
from stepwell.tier.mover import Mover


class DirectTransfers:
    """The mover itself; its report means that the blocks are free."""

    def __init__(self, mover: Mover, views: Callable[[Sequence[int]], list[Buffer]]) -> None:
        """`views`: the bytes of device blocks, in the pool's own memory."""
        self._mover = mover
        self._views = views

    def submit(self, order: Order, blocks: Sequence[int] = ()) -> None:
        """See `Transfers`."""
        if isinstance(order, (LoadChunk, StoreChunk)):
            self._mover.submit(order, self._views(blocks))
        else:
            self._mover.submit(order)

    def poll(self) -> list[Event | BlocksRead]:
        """See `Transfers`."""
        return list(self._mover.poll())

    def wait(self, timeout: float) -> bool:
        """See `Transfers`."""
        return self._mover.wait(timeout)

    def cancel(self, order_ids: Iterable[int]) -> None:
        """See `Transfers`. Here the reports are there at once."""
        self._mover.cancel(order_ids)

    def close(self, timeout: float) -> frozenset[TierName]:
        """See `Transfers`."""
        return self._mover.close(timeout)
