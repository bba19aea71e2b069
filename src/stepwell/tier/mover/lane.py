"""One tier's queues, threads and counters, as the mover's lock guards them.

What goes first: evictions (they make room), the breaker's probe, lookups and loads by deadline,
then stores and moves in the order they came. An eviction and a store of the same key never run
side by side.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

from stepwell.base.hierarchy import (
    EraseChunks,
    Failure,
    LoadChunk,
    LookupChunks,
    MoveChunk,
    TierName,
)
from stepwell.tier.breaker import Breaker
from stepwell.tier.contract import Buffer, Tier
from stepwell.tier.mover.config import Access, LaneConfig, LaneUsage
from stepwell.tier.mover.job import Job, JobState


@dataclass(slots=True, eq=False)
class Worker:
    """One thread. `scratch` is its own for ever (see the package's docstring)."""

    index: int
    thread: threading.Thread | None = None
    jobs: tuple[Job, ...] = ()
    since: float | None = None  # when its present operation began, None if idle
    stalled: bool = False  # the present operation has been taken for hung
    scratch: Buffer = field(default_factory=lambda: memoryview(bytearray()))

    @property
    def late(self) -> bool:
        """Busy with something that nobody waits for any more."""
        return self.stalled or (
            bool(self.jobs) and all(job.state is JobState.DONE for job in self.jobs)
        )

    @property
    def late_since(self) -> float | None:
        """When its last order was reported, None if it has none."""
        return max((job.ended for job in self.jobs if job.ended is not None), default=None)


class Probe:
    """Work: ask the tier whether it answers."""


class Flush:
    """Work: nothing else is to do, so make sure of what was stored."""


@dataclass(frozen=True, slots=True)
class Evictions:
    """Work: delete these."""

    keys: tuple[bytes, ...]


Work = list[Job] | Evictions | Flush | Probe


class Lane:
    """Plain data and queue discipline; the mover decides what it means. Not thread-safe."""

    def __init__(
        self,
        name: TierName,
        tier: Tier,
        config: LaneConfig,
        *,
        access: Access,
        lock: threading.Lock,
    ) -> None:
        self.name = name
        self.tier = tier
        self.config = config
        self.access = access
        self.breaker = Breaker(name, config.breaker)
        self.wakeup = threading.Condition(lock)
        self.workers = [Worker(index) for index in range(config.threads)]
        self.batches = hasattr(tier, "read_batch") and access is Access.STAGED
        self.open_orders = 0
        self.backlog = 0
        self.store_backlog = 0
        self.loaded_bytes = 0
        self.stored_bytes = 0
        self.done = 0
        self.refused_headers = 0
        self.failed: Counter[Failure] = Counter()
        self.flush_at: float | None = None  # when what was stored is to be flushed
        self.probe_wanted = False
        self._loads: list[tuple[float, int, Job]] = []
        self._stores: deque[Job] = deque()
        self._evictions: dict[bytes, None] = {}
        self._evicting: frozenset[bytes] = frozenset()
        self._evictions_held = False  # the last ones failed; again after the next success
        self._sequence = 0

    def blocked_since(self, moment: float) -> bool:
        """Since `moment` or before, every thread has been busy with what nobody waits for any
        more: an order queued at that moment had no chance. (Orders of one plan share a deadline;
        those queued behind a slow one are late, but say nothing more against the tier.)"""
        return all(
            worker.late and (worker.late_since or moment) <= moment for worker in self.workers
        )

    def spoken_against(self, job: Job) -> bool:
        """Whether another order of the same operation has ended before it."""
        mates = next((worker.jobs for worker in self.workers if job in worker.jobs), ())
        return any(mate.state is JobState.DONE for mate in mates)

    @property
    def drained(self) -> bool:
        """Nothing left that a thread could begin."""
        evictions = self._evictions and not self._evictions_held
        return not (self._loads or self._stores or evictions or self.probe_wanted)

    def push(self, job: Job) -> None:
        """Queue it and wake a thread."""
        if isinstance(job.order, (LoadChunk, LookupChunks)):
            self._sequence += 1
            heapq.heappush(self._loads, (job.order.deadline, self._sequence, job))
        else:
            order = job.order
            if isinstance(order, EraseChunks):
                pass
            elif (order.target if isinstance(order, MoveChunk) else order.tier) == self.name:
                self._evictions.pop(order.key, None)  # wanted again before it was gone
            self._stores.append(job)
        self.wakeup.notify()

    def push_eviction(self, key: bytes) -> None:
        """Queue a deletion."""
        self._evictions[key] = None
        self.wakeup.notify()

    def take(self) -> Work | None:
        """The next work for a thread, None if there is none at present."""
        if self._evictions and not self._evictions_held and not self._evicting:
            keys = tuple(self._evictions)
            self._evictions.clear()
            self._evicting = frozenset(keys)
            return Evictions(keys)
        if self.probe_wanted:
            self.probe_wanted = False
            return Probe()
        return self._take_loads() or self._take_store()

    def evictions_ended(self, work: Evictions, *, failed: bool) -> None:
        """Those of a failed deletion wait for the tier to be well again."""
        self._evicting = frozenset()
        if failed:
            self._evictions.update(dict.fromkeys(work.keys))
            self._evictions_held = True
        self.wakeup.notify_all()

    def stored(self, now: float) -> None:
        """The tier took a value."""
        if self.access is Access.STAGED:
            self.flush_at = now + self.config.flush_seconds

    def flush_wait(self, now: float) -> float | None:
        """Seconds until a flush is due, None where none is or the tier is off."""
        if self.flush_at is None or not self.breaker.in_use:
            return None
        return max(0.0, self.flush_at - now)

    def went_well(self) -> None:
        """The tier has answered."""
        self.breaker.success()
        if self._evictions_held:
            self._evictions_held = False
            self.wakeup.notify()

    def empty(self) -> list[Job]:
        """Take everything that has not begun out of the queues."""
        jobs = [job for _, _, job in self._loads] + list(self._stores)
        self._loads.clear()
        self._stores.clear()
        return [job for job in jobs if job.state is JobState.QUEUED]

    def usage(self) -> LaneUsage:
        """A copy of the counters."""
        return LaneUsage(
            open_orders=self.open_orders,
            backlog=self.backlog,
            busy_threads=sum(worker.since is not None for worker in self.workers),
            late_threads=sum(worker.late for worker in self.workers),
            pending_evictions=len(self._evictions) + len(self._evicting),
            breaker=self.breaker.state,
            loaded_bytes=self.loaded_bytes,
            stored_bytes=self.stored_bytes,
            done=self.done,
            failed=dict(self.failed),
            refused_headers=self.refused_headers,
        )

    def _take_loads(self) -> list[Job] | None:
        taken: list[Job] = []
        size = 0
        while self._loads:
            job = self._loads[0][2]
            if job.state is JobState.QUEUED:
                load = isinstance(job.order, LoadChunk)
                if taken and (not load or size + job.size > self.config.batch_bytes):
                    break
                taken.append(job)
                size += job.size
                if not load or not self.batches:
                    heapq.heappop(self._loads)
                    break
            heapq.heappop(self._loads)
        return taken or None

    def _take_store(self) -> list[Job] | None:
        while self._stores:
            job = self._stores[0]
            if job.state is not JobState.QUEUED:
                self._stores.popleft()
                continue
            assert not isinstance(job.order, LookupChunks)
            if not isinstance(job.order, EraseChunks) and job.order.key in self._evicting:
                return None
            return [self._stores.popleft()]
        return None
