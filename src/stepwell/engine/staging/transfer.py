"""One LoadChunk or StoreChunk on its way through staging memory."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepwell.base.hierarchy import Failure, LoadChunk, StoreChunk, TransferReport
from stepwell.engine.staging.slots import Direction, Group, Slot


class Stage(enum.Enum):
    """What it is doing."""

    WAITING = "waiting"  # for a slot
    COPYING = "copying"  # between device blocks and its slot
    MOVING = "moving"  # with the mover, which has its slot
    ENDED = "ended"  # reported


@dataclass(slots=True, eq=False)
class Transfer:
    """Belongs to the pump's thread. `after`: the mark of compute at submission. `copying`: seconds
    of its own copy, without the wait behind others. `landed`: what the mover said of a load."""

    order: LoadChunk | StoreChunk
    blocks: Sequence[int]
    after: object
    submitted: float
    stage: Stage = Stage.WAITING
    slot: Slot | None = None
    cancelled: bool = False
    began: float = 0.0
    copying: float = 0.0
    landed: TransferReport | None = None

    @property
    def group(self) -> Group:
        """Whose slots it uses."""
        load = isinstance(self.order, LoadChunk)
        return self.order.tier, Direction.LOAD if load else Direction.STORE

    @property
    def deadline(self) -> float | None:
        """When a load that has not begun is too late."""
        return self.order.deadline if isinstance(self.order, LoadChunk) else None

    def ended(self, report: TransferReport, *, now: float) -> TransferReport:
        """The mover's report, with the copy's seconds and all of the waiting."""
        seconds = report.seconds + self.copying
        queued = max(0.0, now - self.submitted - seconds)
        return replace(report, now=now, seconds=seconds, queued=queued)

    def failed(self, failure: Failure, *, now: float) -> TransferReport:
        """The report of one that ended outside of the mover."""
        return TransferReport(
            order_id=self.order.order_id,
            now=now,
            seconds=self.copying,
            queued=max(0.0, now - self.submitted - self.copying),
            size=self.order.size,
            failure=failure,
        )
