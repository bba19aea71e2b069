"""The thread that brings each transfer from step to step. It alone calls the mover and the device
while it runs; its books need no lock. It never blocks but to wait for something to do."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from stepwell.base.hierarchy import (
    Event,
    Failure,
    LoadChunk,
    StoreChunk,
    TierHealth,
    TierName,
    TransferReport,
)
from stepwell.engine.staging.contract import BlocksRead, Copies
from stepwell.engine.staging.desk import Cancel, Copied, StagingDesk, Task
from stepwell.engine.staging.queues import Queues
from stepwell.engine.staging.slots import Direction, Group, Slots
from stepwell.engine.staging.transfer import Stage, Transfer
from stepwell.tier.mover import Mover

logger = logging.getLogger(__name__)


class Pump:
    """Starts its thread at once. `store_backlog`: bytes of stores that may wait for slots, by tier;
    more are refused with FULL."""

    def __init__(
        self, desk: StagingDesk, mover: Mover, copies: Copies, slots: Slots, *, store_backlog: int
    ) -> None:
        self._desk = desk
        self._mover = mover
        self._copies = copies
        self._slots = slots
        self._store_backlog = store_backlog
        self._open: dict[int, Transfer] = {}
        self._queues = Queues()
        self._waiting_bytes: Counter[TierName] = Counter()  # of stores
        self._last_copied: defaultdict[Direction, float] = defaultdict(
            float
        )  # when the last copy was complete
        self._news: list[Event | BlocksRead] = []
        self._closing = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="stepwell-staging", daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def finish(self) -> None:
        """The last reports, by the caller's thread: the pump's has ended, the mover is closed, and
        the device's copies are over. A copy that is not keeps its order open for ever: nobody
        may use its blocks."""
        self._stopped = True
        for transfer in list(self._queues.waiting()):
            self._fail(transfer, Failure.CANCELLED)
        self._take_turn(self._desk.next_turn(0.0).tasks)

    def _run(self) -> None:
        while True:
            deadline = self._queues.next_deadline()
            turn = self._desk.next_turn(None if deadline is None else deadline - time.monotonic())
            if turn.closing and not self._closing:
                self._closing = True
                self._cancel_loads()
            self._take_turn(turn.tasks)
            if turn.stopped or (turn.closing and not self._open):
                return

    def _take_turn(self, tasks: list[Task]) -> None:
        for task in tasks:
            self._carry_out(task)
        for event in self._mover.poll():
            self._heard(event)
        for load in self._queues.late(time.monotonic()):
            self._fail(load, Failure.DEADLINE)
        for group in self._slots.groups:
            self._start(group)
        news, self._news = self._news, []
        self._desk.tell(news)

    def _carry_out(self, task: Task) -> None:
        if isinstance(task, Transfer):
            self._accept(task)
        elif isinstance(task, Copied):
            self._copied(task)
        elif isinstance(task, Cancel):
            self._cancel(task.order_id)
        else:
            self._mover.submit(task)

    # -- the steps, in order -----------------------------------------------------------------

    def _accept(self, transfer: Transfer) -> None:
        order = transfer.order
        self._open[order.order_id] = transfer
        self._queues.push(transfer)
        if isinstance(order, StoreChunk):
            self._waiting_bytes[order.tier] += order.size
        self._start(transfer.group)
        if transfer.stage is not Stage.WAITING:
            return
        if isinstance(order, LoadChunk):
            if self._closing:
                self._fail(transfer, Failure.CANCELLED)
        elif self._waiting_bytes[order.tier] > self._store_backlog:
            self._fail(transfer, Failure.FULL)

    def _start(self, group: Group) -> None:
        """Give free slots to those that wait."""
        while (transfer := self._queues.first(group)) is not None:
            slot = self._slots.take(group)
            if slot is None:
                return
            self._waits_no_more(transfer)
            transfer.slot = slot
            if isinstance(transfer.order, StoreChunk):
                self._copy(transfer, self._copies.to_host)
            else:
                self._move(transfer)

    def _copy(self, transfer: Transfer, copy: Callable[..., None]) -> None:
        slot = transfer.slot
        assert slot is not None
        transfer.stage, transfer.began = Stage.COPYING, time.monotonic()

        def done(error: Exception | None) -> None:
            self._desk.ask([Copied(transfer, time.monotonic(), error)])

        try:
            copy(transfer.blocks, slot.rows, after=transfer.after, done=done)
        except Exception as error:
            self._not_copied(transfer, error)

    def _move(self, transfer: Transfer) -> None:
        assert transfer.slot is not None
        transfer.stage = Stage.MOVING
        self._mover.submit(transfer.order, transfer.slot.views)

    def _copied(self, copied: Copied) -> None:
        transfer, direction = copied.transfer, copied.transfer.group[1]
        transfer.copying = copied.at - max(transfer.began, self._last_copied[direction])
        self._last_copied[direction] = copied.at
        if copied.error is not None:
            self._not_copied(transfer, copied.error)
        elif transfer.landed is not None:
            self._end(transfer, transfer.ended(transfer.landed, now=time.monotonic()))
        elif transfer.cancelled or self._stopped:
            self._fail(transfer, Failure.CANCELLED)
        else:
            self._news.append(BlocksRead(transfer.order.order_id))
            self._move(transfer)

    def _not_copied(self, transfer: Transfer, error: Exception) -> None:
        logger.error("staging_copy_failed: %s: %s", type(error).__name__, error)
        self._fail(transfer, Failure.IO)

    def _heard(self, event: Event) -> None:
        transfer = None
        if isinstance(event, TransferReport):
            transfer = self._open.get(event.order_id)
        if transfer is None or not isinstance(event, TransferReport):
            self._news.append(event)
            if isinstance(event, TierHealth) and not event.healthy:
                for waiting in list(self._queues.waiting(event.tier)):
                    self._fail(waiting, Failure.SICK)
        elif event.failure is not None or isinstance(transfer.order, StoreChunk):
            self._end(transfer, transfer.ended(event, now=time.monotonic()))
        elif self._stopped:
            self._fail(transfer, Failure.CANCELLED)
        else:
            transfer.landed = event
            self._copy(transfer, self._copies.to_device)

    # -- ends ------------------------------------------------------------------------------

    def _cancel(self, order_id: int) -> None:
        transfer = self._open.get(order_id)
        if transfer is None or transfer.stage is Stage.MOVING:
            self._mover.cancel([order_id])
        elif transfer.stage is Stage.WAITING:
            self._fail(transfer, Failure.CANCELLED)
        else:
            transfer.cancelled = True  # a load's copy into the blocks runs to its end

    def _cancel_loads(self) -> None:
        for transfer in list(self._open.values()):
            if isinstance(transfer.order, LoadChunk):
                self._cancel(transfer.order.order_id)

    def _fail(self, transfer: Transfer, failure: Failure) -> None:
        self._end(transfer, transfer.failed(failure, now=time.monotonic()))

    def _end(self, transfer: Transfer, report: TransferReport) -> None:
        """Report it; its slot and its blocks are free."""
        if transfer.slot is None:
            self._waits_no_more(transfer)
        else:
            self._slots.give(transfer.group, transfer.slot)
        transfer.stage = Stage.ENDED
        del self._open[transfer.order.order_id]
        self._news.append(report)

    def _waits_no_more(self, transfer: Transfer) -> None:
        if isinstance(transfer.order, StoreChunk):
            self._waiting_bytes[transfer.order.tier] -= transfer.order.size
