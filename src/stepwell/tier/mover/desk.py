"""The orders' book-keeping: what is open, what has ended, what is too late.

One lock guards all of it, the lanes included; it is held for microseconds, never while bytes move
and never while a tier is called. The engine's side (`mover`) and the threads (`crew`) both work
through this. Methods with a leading underscore, and those that say so, want the lock held.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from stepwell.base.hierarchy import (
    Event,
    Failure,
    LoadChunk,
    LookupChunks,
    MoveChunk,
    StoreChunk,
    TierHealth,
    TierName,
)
from stepwell.tier.contract import Buffer, Tier
from stepwell.tier.host import HostTier
from stepwell.tier.mover.config import Access, LaneConfig
from stepwell.tier.mover.job import Job, JobState, Outcome, report
from stepwell.tier.mover.lane import Lane, Worker

logger = logging.getLogger(__name__)

_SLACK = 256  # entries of reported orders that may wait for their deadlines
_WATCH_SECONDS = 1.0  # the watcher looks at least so often


class Desk:
    """Shared by all threads of one mover."""

    def __init__(
        self,
        tiers: Mapping[TierName, Tier],
        configs: Mapping[TierName, LaneConfig],
        *,
        on_ready: Callable[[], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.ready = threading.Condition(self.lock)
        self.watch = threading.Condition(self.lock)
        self.watch_until = 0.0
        self.closing = False  # no new orders; what waits is carried out
        self.stopped = False  # nothing more is begun
        self.jobs: dict[int, Job] = {}
        self.events: deque[Event] = deque()
        self.lanes: dict[TierName, Lane] = {}
        self._on_ready = on_ready
        self._signal = False
        self._accepted = 0
        self._deadlines: list[tuple[float, int, Job]] = []
        for name, tier in tiers.items():
            config = configs.get(name) or LaneConfig()
            usual = Access.DIRECT if isinstance(tier, HostTier) else Access.STAGED
            access = config.access or usual
            self.lanes[name] = Lane(name, tier, config, access=access, lock=self.lock)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The lock; afterwards, and without it, the engine is woken if there is news."""
        with self.lock:
            yield
            signal, self._signal = self._signal, False
        if signal and self._on_ready is not None:
            try:
                self._on_ready()
            except Exception:  # it must not take a mover's thread with it
                logger.exception("mover_callback_failed")

    # -- the threads' side -------------------------------------------------------------------

    def claim(self, job: Job) -> bool:
        """May the engine's buffers be touched from here on? Takes the lock. False: the order has
        been reported (rule 2 of the package's docstring)."""
        with self.lock:
            if job.state is JobState.RUNNING:
                job.state = JobState.CLAIMED
            return job.state is JobState.CLAIMED

    def unclaim(self, job: Job) -> None:
        """The engine's buffers will not be touched any more; the order can expire. Takes the
        lock."""
        with self.lock:
            job.state = JobState.RUNNING

    def finish(self, job: Job, outcome: Outcome) -> bool:
        """Report; False if that had been done before. Takes the lock."""
        with self.exclusive():
            if job.state is JobState.DONE:
                return False
            self.end(job, outcome)
            return True

    def hand_over(self, job: Job, value: Buffer) -> None:
        """The second half of a move between two staged tiers. Takes the lock."""
        with self.exclusive():
            if job.state is JobState.DONE:
                return
            assert job.then is not None
            job.handoff, job.lane, job.then = value, job.then, None
            job.state = JobState.QUEUED
            lane = self.lanes[job.lane]
            if lane.breaker.in_use and not self.stopped:
                lane.push(job)
            else:
                self.end(job, Outcome(failure=Failure.SICK))

    # -- under the lock ----------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """Queue a new order, or report at once why not. Wants the lock."""
        lanes = [self.lanes[name] for name in job.tiers]
        over = False
        self.jobs[job.order.order_id] = job
        for lane in lanes:
            lane.open_orders += 1
            lane.backlog += job.size
            if job.deadline is None:  # loads are bounded by the device blocks they fill
                lane.store_backlog += job.size
                over = over or lane.store_backlog > lane.config.store_backlog
        if not all(lane.breaker.in_use for lane in lanes):
            self.end(job, Outcome(failure=Failure.SICK))
        elif over:
            self.end(job, Outcome(failure=Failure.FULL))
        else:
            self.lanes[job.lane].push(job)
            if job.deadline is not None:
                self._expect(job, job.deadline)

    def drain(self) -> list[Event]:
        """All events so far. Wants the lock."""
        events = list(self.events)
        self.events.clear()
        self._signal = False
        return events

    def end(self, job: Job, outcome: Outcome) -> None:
        """Report an order and tell the breakers. Wants the lock."""
        now = self.clock()
        if job.state is JobState.QUEUED:
            job.buffers = ()  # else a thread has them, which drops them with the job
        job.state = JobState.DONE
        job.ended = now
        job.handoff = None
        del self.jobs[job.order.order_id]
        for name in job.tiers:
            lane = self.lanes[name]
            lane.open_orders -= 1
            lane.backlog -= job.size
            if job.deadline is None:
                lane.store_backlog -= job.size
        self._count(job, outcome)
        self._emit(report(job, outcome, now=now))
        if self.closing:
            self.wake_all()
        if outcome.culprit is not None:
            self.speak_against(self.lanes[outcome.culprit], outcome.because)
        elif job.began is not None and outcome.failure in (None, Failure.MISSING, Failure.FULL):
            for name in job.tiers:
                self.lanes[name].went_well()

    def speak_against(self, lane: Lane, because: str) -> None:
        """A failure of the tier. Wants the lock."""
        self.switched(lane, lane.breaker.failure(self.clock(), because))

    def switched(self, lane: Lane, event: TierHealth | None) -> None:
        """The breaker has spoken: a tier that is off keeps nobody waiting. Wants the lock."""
        if event is None:
            return
        self._emit(event)
        if not event.healthy:
            for job in lane.empty():
                self.end(job, Outcome(failure=Failure.SICK))
            self.watch.notify()  # a probe will be due

    def tick(self, now: float) -> None:
        """Expire what is too late, take hung threads for hung, send due probes. Wants the lock."""
        while self._deadlines and self._deadlines[0][0] <= now:
            self._expire(heapq.heappop(self._deadlines)[2])
        for lane in self.lanes.values():
            for worker in lane.workers:
                if worker.since is not None and not worker.stalled:
                    if now - worker.since > lane.config.stall_seconds:
                        self._stalled(lane, worker, now)
            due = lane.breaker.next_probe
            if due is not None and due <= now and not self.closing:
                lane.breaker.probe_started()
                lane.probe_wanted = True
                lane.wakeup.notify()

    def next_check(self, now: float) -> float:
        """When `tick` may have something to do next. Wants the lock."""
        times = [now + _WATCH_SECONDS]
        if self._deadlines:
            times.append(self._deadlines[0][0])
        for lane in self.lanes.values():
            if lane.breaker.next_probe is not None:
                times.append(lane.breaker.next_probe)
        return min(times)

    def feeds(self, lane: Lane) -> bool:
        """Whether a move in another lane may still end up in this one. Wants the lock."""
        return any(job.then == lane.name for job in self.jobs.values())

    def wake_all(self) -> None:
        """Let every thread look again. Wants the lock."""
        for lane in self.lanes.values():
            lane.wakeup.notify_all()
        self.watch.notify_all()

    def _expect(self, job: Job, deadline: float) -> None:
        if len(self._deadlines) > _SLACK + 2 * len(self.jobs):  # what is done need not expire
            self._deadlines = [e for e in self._deadlines if e[2].state is not JobState.DONE]
            heapq.heapify(self._deadlines)
        self._accepted += 1
        heapq.heappush(self._deadlines, (deadline, self._accepted, job))
        if deadline < self.watch_until:
            self.watch.notify()

    def _emit(self, event: Event) -> None:
        self._signal = self._signal or not self.events
        self.events.append(event)
        self.ready.notify_all()

    def _count(self, job: Job, outcome: Outcome) -> None:
        lane = self.lanes[job.lane]
        lane.refused_headers += outcome.refused_header
        if outcome.failure is not None:
            lane.failed[outcome.failure] += 1
            return
        lane.done += 1
        if isinstance(job.order, LoadChunk):
            lane.loaded_bytes += job.size
        elif isinstance(job.order, StoreChunk):
            lane.stored_bytes += job.size
            lane.stored(self.clock())
        elif isinstance(job.order, MoveChunk):
            self.lanes[job.order.source].loaded_bytes += job.size
            self.lanes[job.order.target].stored_bytes += job.size
            self.lanes[job.order.target].stored(self.clock())

    def _expire(self, job: Job) -> None:
        kind = "a lookup" if isinstance(job.order, LookupChunks) else "a load"
        if job.state is JobState.RUNNING:
            if self.lanes[job.lane].spoken_against(job):
                self.end(job, Outcome(failure=Failure.DEADLINE))  # one operation, one failure
                return
            because = f"{kind} was not done by its deadline"
        elif job.state is JobState.QUEUED and self.lanes[job.lane].blocked_since(job.submitted):
            because = f"{kind} could not begin: every thread is late"
        elif job.state is JobState.QUEUED:
            self.end(job, Outcome(failure=Failure.DEADLINE))  # busy is not sick
            return
        else:
            return  # reported, or claimed: its copy ends in bounded time and reports it
        self.end(job, Outcome(failure=Failure.DEADLINE, culprit=job.lane, because=because))

    def _stalled(self, lane: Lane, worker: Worker, now: float) -> None:
        if any(job.state is JobState.CLAIMED for job in worker.jobs):
            return  # it is copying, not in the tier
        worker.stalled = True
        for job in worker.jobs:
            if job.state is JobState.RUNNING:
                self.end(job, Outcome(failure=Failure.DEADLINE))
        because = f"an operation takes longer than {lane.config.stall_seconds:g} s"
        self.switched(lane, lane.breaker.trip(now, because))
