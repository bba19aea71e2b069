"""What `engine/tiers.py` asks of transfers, and what staged transfers ask of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from stepwell.base.hierarchy import Event, Order, TierName


@dataclass(frozen=True, slots=True)
class BlocksRead:
    """The device blocks of a StoreChunk are free; its report follows when the tier has them."""

    order_id: int


class Transfers(Protocol):
    """The mover, in terms of device blocks. All methods are the engine's thread's.

    Each order but EvictChunk gets exactly one report, and from then on its blocks are free.
    """

    def submit(self, order: Order, blocks: Sequence[int] = ()) -> None:
        """Take an order. `blocks`: source of a StoreChunk, destination of a LoadChunk. Raises
        RuntimeError after `close`."""
        ...

    def poll(self) -> list[Event | BlocksRead]:
        """What has ended since the last call; never waits."""
        ...

    def wait(self, timeout: float) -> bool:
        """Sleep until `poll` has something to give, at most `timeout` seconds."""
        ...

    def cancel(self, order_ids: Iterable[int]) -> None:
        """No longer wanted: reported as CANCELLED, soon, unless they run to their ends first."""
        ...

    def close(self, timeout: float) -> frozenset[TierName]:
        """Stop: stores are carried out as far as `timeout` seconds go, all else is cancelled.
        `poll` gives the last reports. Returns the tiers that still have a thread inside. Calling it
        twice is harmless."""
        ...


Done = Callable[[Exception | None], None]
"""Told, from any thread and without locks, that a copy is complete, or why it is not."""


class Copies(Protocol):
    """Copies between a device's blocks and staging memory, beside compute.

    `after`: a mark; the copy begins when compute has got there. `done` is called exactly once, and
    from then on neither side of the copy is touched. A call that raises has begun nothing and calls
    no `done`. Copies of one direction are carried out one after the other.
    """

    def allocate(self, rows: int) -> Tensor:
        """Staging memory that this device copies from and to without blocking, [rows, bytes of a
        block], uint8. Raises HardwareError."""
        ...

    def mark(self) -> object:
        """What compute has been told to do so far. Called on the engine's thread."""
        ...

    def to_host(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        """Copy blocks into rows of staging memory."""
        ...

    def to_device(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        """Copy rows of staging memory into blocks."""
        ...

    def close(self, timeout: float) -> bool:
        """Take no more, wait for what is under way. False if that takes longer than `timeout`
        seconds: then staging memory and blocks are still in use."""
        ...
