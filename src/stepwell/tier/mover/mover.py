"""Mover: what the engine calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from stepwell.base.hierarchy import (
    Event,
    EvictChunk,
    Failure,
    LoadChunk,
    MoveChunk,
    Order,
    StoreChunk,
    TierName,
)
from stepwell.codec.buffers import flat_views
from stepwell.codec.value import ValueFormat
from stepwell.tier.contract import Buffer, Tier
from stepwell.tier.mover.config import Access, LaneConfig, MoverUsage
from stepwell.tier.mover.crew import Crew
from stepwell.tier.mover.desk import Desk
from stepwell.tier.mover.job import Job, JobState, Outcome, Tracked
from stepwell.tier.mover.transfer import Carrier


class Mover:
    """Carries out orders. submit, poll, wait, cancel and close are called by one thread only.

    Every order but EvictChunk gets exactly one report, and from its report on its buffers are free.
    An order may be reported at any time after `submit`, including within it; reports are fetched
    with `poll`.
    """

    def __init__(
        self,
        tiers: Mapping[TierName, Tier],
        *,
        forms: Mapping[TierName, ValueFormat],
        block_bytes: int = 0,
        lanes: Mapping[TierName, LaneConfig] | None = None,
        on_ready: Callable[[], None] | None = None,
        prepare_thread: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tiers` stay the caller's, who closes them after the mover. `forms`: how each one's
        values are written. `block_bytes`: of a device block, 0 where all tiers have one codec.
        `on_ready` is called from any thread, without locks, when `poll` has come to have something
        to give; it must not block. `prepare_thread` is called first in each thread that carries.
        `clock`: seconds, also of all deadlines."""
        self._desk = Desk(tiers, lanes or {}, on_ready=on_ready, clock=clock)
        carrier = Carrier(tiers, forms, self._desk, block_bytes=block_bytes)
        self._crew = Crew(self._desk, carrier, prepare_thread=prepare_thread)

    def submit(self, order: Order, buffers: Sequence[Buffer] | None = None) -> None:
        """Take an order. `buffers`: the device blocks' bytes, source of a StoreChunk, destination
        of a LoadChunk, in order; the mover may touch them until it reports.

        Raises ValueError for a tier that there is no lane for, an order id that is in use, or
        buffers where none belong (or none where some do); RuntimeError after close().
        """
        if isinstance(order, EvictChunk):
            self._evict(order)
            return
        needs = isinstance(order, (LoadChunk, StoreChunk))
        if needs is (buffers is None):
            raise ValueError(f"{type(order).__name__} {'needs' if needs else 'takes no'} buffers")
        job = self._job(order, flat_views(buffers or ()))
        desk = self._desk
        with desk.exclusive():
            if desk.closing:
                raise RuntimeError("the mover is closed")
            if order.order_id in desk.jobs:
                raise ValueError(f"order {order.order_id} is under way")
            desk.accept(job)

    def poll(self) -> list[Event]:
        """What has ended since the last call, in that order; never waits for a transfer."""
        desk = self._desk
        with desk.exclusive():
            desk.tick(desk.clock())
            return desk.drain()

    def wait(self, timeout: float) -> bool:
        """Sleep until `poll` would give something, at most `timeout` seconds; whether it would."""
        desk = self._desk
        with desk.exclusive():
            desk.tick(desk.clock())
            return desk.ready.wait_for(lambda: bool(desk.events), timeout)

    def cancel(self, order_ids: Iterable[int]) -> None:
        """No longer wanted. What has not begun, and loads and lookups that have not reached the
        engine's buffers, are reported as CANCELLED at once; everything else runs to its end."""
        desk = self._desk
        with desk.exclusive():
            for order_id in order_ids:
                job = desk.jobs.get(order_id)
                if job is None or job.state is JobState.CLAIMED:
                    continue
                if job.state is JobState.QUEUED or job.deadline is not None:
                    desk.end(job, Outcome(failure=Failure.CANCELLED))

    def backlog(self, tier: TierName) -> int:
        """Bytes of orders that touch this tier and are not reported yet."""
        return self._desk.lanes[tier].backlog

    def usage(self) -> MoverUsage:
        """Counters of all lanes."""
        lanes = self._desk.lanes
        with self._desk.lock:
            scratch = sum(len(w.scratch) for lane in lanes.values() for w in lane.workers)
            usage = {name: lane.usage() for name, lane in lanes.items()}
        return MoverUsage(lanes=usage, scratch_bytes=scratch)

    def close(self, timeout: float) -> frozenset[TierName]:
        """Stop. Loads and lookups that have not begun are cancelled; stores, moves and evictions
        are carried out as far as `timeout` seconds go; what is open then is reported as CANCELLED.
        `poll` gives the last reports. Calling it twice is harmless.

        Returns the tiers that still have a thread inside: those must not be closed.
        """
        desk = self._desk
        with desk.exclusive():
            desk.closing = True
            for job in list(desk.jobs.values()):
                if job.state is JobState.QUEUED and job.deadline is not None:
                    desk.end(job, Outcome(failure=Failure.CANCELLED))
            desk.wake_all()
        self._crew.join(timeout)
        with desk.exclusive():
            desk.stopped = True
            for job in list(desk.jobs.values()):
                if job.state is not JobState.CLAIMED:  # its copy ends in bounded time
                    desk.end(job, Outcome(failure=Failure.CANCELLED))
            desk.wake_all()
            return self._crew.busy()

    def _job(self, order: Tracked, buffers: list[Buffer]) -> Job:
        """Which lanes an order needs, and in whose thread it begins.

        A move runs in the lane of its staged side, where it can block nobody else; between two
        staged tiers it is read in one lane and written in the other.
        """
        tiers: tuple[TierName, ...]
        tiers = (order.source, order.target) if isinstance(order, MoveChunk) else (order.tier,)
        staged = [name for name in tiers if self._lane_access(name) is Access.STAGED]
        return Job(
            order=order,
            lane=(staged or tiers)[0],
            then=staged[1] if len(staged) == 2 else None,
            tiers=tiers,
            buffers=buffers,
            submitted=self._desk.clock(),
        )

    def _evict(self, order: EvictChunk) -> None:
        lane = self._desk.lanes.get(order.tier)
        if self._lane_access(order.tier) is Access.DIRECT and lane is not None:
            lane.tier.delete([order.key])  # book-keeping: at once, so that its pages are free
        elif lane is not None:
            with self._desk.lock:
                lane.push_eviction(order.key)

    def _lane_access(self, tier: TierName) -> Access:
        lane = self._desk.lanes.get(tier)
        if lane is None:
            raise ValueError(f"there is no lane for {tier.name}")
        return lane.access
