"""The mover's threads: a few per lane, and one that watches the clock.

All are daemons: a thread that hangs inside a tier cannot keep the process alive.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from stepwell.base.hierarchy import EraseChunks, Failure, LookupChunks, TierName
from stepwell.tier.contract import KEY_BYTES
from stepwell.tier.mover.config import Access
from stepwell.tier.mover.desk import Desk
from stepwell.tier.mover.job import Job, JobState, Outcome
from stepwell.tier.mover.lane import Evictions, Flush, Lane, Probe, Work, Worker
from stepwell.tier.mover.transfer import Carrier

_PROBE_KEY = bytes(KEY_BYTES)


class Crew:
    """Starts the threads at once; `join` waits for them after the desk has been told to close."""

    def __init__(
        self, desk: Desk, carrier: Carrier, *, prepare_thread: Callable[[], None] | None = None
    ) -> None:
        self._prepare_thread = prepare_thread or (lambda: None)
        self._desk = desk
        self._carrier = carrier
        self._threads = [
            _start(f"mover-{lane.name.name.lower()}-{worker.index}", self._work, lane, worker)
            for lane in desk.lanes.values()
            for worker in lane.workers
        ]
        self._watcher = _start("mover-watch", self._keep_watch)

    def join(self, timeout: float) -> None:
        """Wait for the lanes' threads, at most `timeout` seconds for all of them together."""
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def busy(self) -> frozenset[TierName]:
        """Lanes with a thread inside their tier. Wants the desk's lock."""
        lanes = self._desk.lanes.values()
        return frozenset(
            lane.name for lane in lanes for worker in lane.workers if worker.since is not None
        )

    def _work(self, lane: Lane, worker: Worker) -> None:
        self._prepare_thread()
        while (work := self._next(lane, worker)) is not None:
            if isinstance(work, Evictions):
                self._carry_evictions(lane, work)
            elif isinstance(work, Flush):
                self._carry_flush(lane)
            elif isinstance(work, Probe):
                self._carry_probe(lane)
            else:
                self._carrier.carry(lane, worker, work)

    def _next(self, lane: Lane, worker: Worker) -> Work | None:
        """Wait for work; None when the mover closes and nothing is left to do here."""
        desk = self._desk
        while True:
            with desk.exclusive():
                worker.jobs, worker.since, worker.stalled = (), None, False
                if desk.stopped:
                    return None
                now = desk.clock()
                work = lane.take()
                if isinstance(work, list):
                    work = self._begin(lane, worker, work, now) or None
                    if work is None:
                        continue  # all of them were too late: reported, so leave the lock once
                if work is not None:
                    worker.since = now
                    return work
                if desk.closing and lane.drained and not desk.feeds(lane):
                    return None
                wait = lane.flush_wait(now)
                if wait == 0.0:
                    lane.flush_at = None
                    worker.since = now
                    return Flush()
                lane.wakeup.wait(wait)

    def _begin(self, lane: Lane, worker: Worker, jobs: list[Job], now: float) -> list[Job]:
        begun = []
        for job in jobs:
            if job.deadline is not None and job.deadline <= now:
                self._desk.end(job, Outcome(failure=Failure.DEADLINE))
                continue
            job.began = now if job.began is None else job.began
            moves = not isinstance(job.order, LookupChunks | EraseChunks)
            copies = lane.access is Access.DIRECT and moves
            job.state = JobState.CLAIMED if copies else JobState.RUNNING
            begun.append(job)
        worker.jobs = tuple(begun)
        return begun

    def _carry_evictions(self, lane: Lane, work: Evictions) -> None:
        because = _because(lambda: lane.tier.delete(work.keys))
        with self._desk.exclusive():
            lane.evictions_ended(work, failed=because is not None)
            if because is not None:
                self._desk.speak_against(lane, because)

    def _carry_flush(self, lane: Lane) -> None:
        """Once: what could not be flushed waits for the next store, or for `close` of the tier."""
        because = _because(lane.tier.flush)
        if because is not None:
            with self._desk.exclusive():
                self._desk.speak_against(lane, because)

    def _carry_probe(self, lane: Lane) -> None:
        because = _because(lambda: lane.tier.contains([_PROBE_KEY]))
        with self._desk.exclusive():
            now = self._desk.clock()
            if because is None:
                self._desk.switched(lane, lane.breaker.probe_succeeded(now))
            else:
                lane.breaker.probe_failed(now, because)
            self._desk.watch.notify()

    def _keep_watch(self) -> None:
        """Expire orders while the engine sleeps, so that `on_ready` can wake it."""
        desk = self._desk
        while True:
            with desk.exclusive():
                now = desk.clock()
                before = len(desk.events)
                desk.tick(now)
                if desk.stopped:
                    return
                if len(desk.events) == before:  # else: leave the lock first, to wake the engine
                    desk.watch_until = desk.next_check(now)
                    desk.watch.wait(max(0.0, desk.watch_until - now))
                    desk.watch_until = 0.0


def _start(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=f"stepwell-{name}", daemon=True)
    thread.start()
    return thread


def _because(call: Callable[[], object]) -> str | None:
    """None if the call went well, else why not."""
    try:
        call()
    except Exception as error:  # a tier with a bug is a tier that failed, no more
        return f"{type(error).__name__}: {error}"
    return None
