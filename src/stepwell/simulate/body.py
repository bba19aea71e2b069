"""The discrete-event body: carries out the brain's orders in virtual time.

One device computes prompts one after another; each tier has one link that works through its
transfers in order. With `instant` links every order ends at once, which isolates the policy: what
remains is the hit rate of a cache of that size.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import (
    EraseChunks,
    EvictChunk,
    Failure,
    LoadChunk,
    LookupChunks,
    LookupReport,
    MoveChunk,
    Order,
    TierName,
    TransferReport,
)
from stepwell.cache.hierarchy import Hierarchy
from stepwell.simulate.machine import Machine

_REPORT, _CLOSE = 0, 1
_INSTANT = 1e-9


@dataclass(slots=True)
class _Close:
    request_id: str
    keys: Sequence[bytes]


class DevicePool:
    """The device's own cache of chunks, least recently used first. Capacity in chunks."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chunks: OrderedDict[bytes, None] = OrderedDict()

    def resident(self, keys: Sequence[bytes]) -> int:
        """How many of the first chunks are there."""
        count = 0
        for key in keys:
            if key not in self._chunks:
                break
            count += 1
        return count

    def use(self, keys: Sequence[bytes]) -> None:
        """A request has put these there, last chunk first in age."""
        if not self._capacity:
            return
        for key in reversed(keys):
            self._chunks[key] = None
            self._chunks.move_to_end(key)
        while len(self._chunks) > self._capacity:
            self._chunks.popitem(last=False)


class Body:
    """Virtual clock, links and what is still to happen."""

    def __init__(self, brain: Hierarchy, machine: Machine, *, instant: bool) -> None:
        self._brain = brain
        self._machine = machine
        self._instant = instant
        self._free = dict.fromkeys(TierName, 0.0)
        self._due: list[tuple[float, int, int, object]] = []
        self._count = 0
        self._shared: set[bytes] = set()

    def run_until(self, now: float) -> None:
        """Let happen what is due."""
        due = self._due
        while due and due[0][0] <= now:
            time, _, kind, what = heapq.heappop(due)
            if kind == _REPORT:
                assert isinstance(what, TransferReport)
                self._brain.report(what)
            else:
                assert isinstance(what, _Close)
                self._brain.close(what.request_id, what.keys, len(what.keys), time)
            self.accept(self._brain.take_orders(), time)
        self._brain.tick(now)
        self.accept(self._brain.take_orders(), now)

    def drain(self) -> None:
        """Let happen all that is still to come of the requests so far."""
        while self._due:
            self.run_until(self._due[0][0])

    def finish_at(self, time: float, request_id: str, keys: Sequence[bytes]) -> None:
        """The request's reply ends then."""
        self._push(time, _CLOSE, _Close(request_id, keys))

    def lookup(self, order: LookupChunks, now: float) -> None:
        """Answer at once: the round trip is small beside a load."""
        found = frozenset(key for key in order.keys if key in self._shared)
        self._brain.report(LookupReport(order_id=order.order_id, now=now, seconds=0.0, found=found))

    def load(self, orders: Sequence[LoadChunk], now: float) -> tuple[float, int]:
        """Carry out a plan's loads; (seconds until the last arrival, chunks that arrived)."""
        last, arrived = now, 0
        for order in orders:
            end = self._transfer(order.tier, order.size, now)
            failure = Failure.DEADLINE if end > order.deadline and not self._instant else None
            if failure is None:
                last, arrived = max(last, end), arrived + 1
            self._report(order, min(end, order.deadline) if failure else end, now, failure)
        return last - now, arrived

    def accept(self, orders: Sequence[Order], now: float) -> None:
        """Begin stores and moves; evictions need nothing."""
        pending = list(orders)
        while pending:
            for order in pending:
                if isinstance(order, EraseChunks | EvictChunk | LookupChunks):
                    continue
                target = order.target if isinstance(order, MoveChunk) else order.tier
                if target is TierName.REMOTE:
                    self._shared.add(order.key)
                self._report(order, self._transfer(target, order.size, now), now, None)
            pending = self._brain.take_orders() if self._instant else []

    def _transfer(self, tier: TierName, size: int, now: float) -> float:
        """When a transfer that is ordered now ends."""
        if self._instant:
            return now
        link = self._machine.links[tier]
        start = max(now, self._free[tier])
        self._free[tier] = start + size / link.bandwidth
        return self._free[tier] + link.latency

    def _report(self, order: Order, end: float, now: float, failure: Failure | None) -> None:
        assert not isinstance(order, EraseChunks | EvictChunk | LookupChunks)
        seconds = max(_INSTANT, end - now)
        report = TransferReport(
            order_id=order.order_id, now=end, seconds=seconds, queued=0.0, size=order.size,
            failure=failure,
        )  # fmt: skip
        if self._instant:
            self._brain.report(report)
        else:
            self._push(end, _REPORT, report)

    def _push(self, time: float, kind: int, what: object) -> None:
        self._count += 1
        heapq.heappush(self._due, (time, self._count, kind, what))
