"""One order on its way."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import (
    EraseChunks,
    Failure,
    LoadChunk,
    LookupChunks,
    LookupReport,
    MoveChunk,
    StoreChunk,
    TierName,
    TransferReport,
)
from stepwell.tier.contract import Buffer

Tracked = LookupChunks | LoadChunk | StoreChunk | MoveChunk | EraseChunks


class JobState(enum.Enum):
    """Only QUEUED and RUNNING orders can expire; only RUNNING ones can be claimed."""

    QUEUED = "queued"
    RUNNING = "running"  # in a thread that does not touch the engine's buffers
    CLAIMED = "claimed"  # in a thread that does
    DONE = "done"  # reported


@dataclass(slots=True, eq=False)
class Job:
    """Mutable, guarded by the mover's lock. `buffers` are the engine's; let go of when reported.

    `tiers`: those it touches. `lane`: whose thread has or will have it. A move between two staged
    tiers goes on in the lane `then`, with the value in `handoff`, which belongs to the order.
    `kept_exact`: the codec would not take it; set by the thread that has it.
    """

    order: Tracked
    lane: TierName
    buffers: Sequence[Buffer]
    submitted: float
    tiers: tuple[TierName, ...]
    then: TierName | None = None
    state: JobState = JobState.QUEUED
    began: float | None = None
    ended: float | None = None
    handoff: Buffer | None = None
    kept_exact: bool = False

    @property
    def deadline(self) -> float | None:
        """When it is too late, None if it never is."""
        order = self.order
        return order.deadline if isinstance(order, (LookupChunks, LoadChunk)) else None

    @property
    def size(self) -> int:
        """Bytes that it counts in the backlog."""
        order = self.order
        return 0 if isinstance(order, LookupChunks | EraseChunks) else order.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an order ended. `culprit`: the tier whose breaker is to hear of the failure.

    `size`: what the tier holds; None: as ordered. `share`: of the time since it began, what was
    its own (transfers in one batch share the time of the batch).
    """

    failure: Failure | None = None
    culprit: TierName | None = None
    because: str = ""
    size: int | None = None
    found: frozenset[bytes] = frozenset()
    share: float = 1.0
    refused_header: bool = False


def report(job: Job, outcome: Outcome, *, now: float) -> LookupReport | TransferReport:
    """The event that ends this order."""
    taken = 0.0 if job.began is None else (now - job.began) * outcome.share
    if isinstance(job.order, LookupChunks):
        return LookupReport(
            order_id=job.order.order_id,
            now=now,
            seconds=now - job.submitted,
            found=outcome.found,
            failure=outcome.failure,
        )
    return TransferReport(
        order_id=job.order.order_id,
        now=now,
        seconds=taken,
        queued=now - job.submitted - taken,
        size=job.size if outcome.size is None else outcome.size,
        failure=outcome.failure,
        kept_exact=job.kept_exact,
    )
