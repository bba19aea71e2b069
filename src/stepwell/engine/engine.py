"""The step loop: schedule -> copy -> forward -> sample, commit, emit (`roster.py`).

Single-threaded: whoever calls `step` owns everything in here. Each accepted request ends in
exactly one finishing Delta per choice. A request whose own step raises ends with an error and
takes no other with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from torch import Tensor

from stepwell.base.errors import StepFailed, StepwellError
from stepwell.base.request import Delta, EngineStats, GenerationRequest, MemoryUse
from stepwell.cache.manager import CacheManager
from stepwell.engine.ahead import Ahead, only_decodes
from stepwell.engine.door import Door
from stepwell.engine.prefixes import Prefixes
from stepwell.engine.roster import Counters, Live, PreparedRequest, Roster
from stepwell.engine.runner import ModelRunner
from stepwell.engine.scheduler import ScheduledSequence, Scheduler
from stepwell.engine.sequence import Sequence
from stepwell.model.pool import KVPool

if TYPE_CHECKING:
    from stepwell.engine.tiers import Tiers
    from stepwell.model.streaming import Streamer

logger = logging.getLogger(__name__)


class Engine:
    """Owns the roster of sequences, the scheduler, the brain's instance and the pool."""

    def __init__(
        self,
        *,
        runner: ModelRunner,
        pool: KVPool,
        cache: CacheManager,
        scheduler: Scheduler,
        door: Door,
        weight_bytes: int,
        ahead: Ahead | None = None,
        tiers: Tiers | None = None,
        streamer: Streamer | None = None,
        check_every_step: bool = False,
    ) -> None:
        self._runner = runner
        self._pool = pool
        self._cache = cache
        self._scheduler = scheduler
        self._door = door
        self._ahead = ahead
        self.tiers = tiers
        self._streamer = streamer
        self._weight_bytes = weight_bytes
        self._check_every_step = check_every_step
        self._roster = Roster(cache=cache, scheduler=scheduler)
        self.prefixes = Prefixes(cache=cache, pool=pool, tiers=tiers)
        self._idle = False

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return len(self._roster) > 0

    def has_request(self, request_id: str) -> bool:
        """Whether this request is unfinished."""
        return request_id in self._roster

    @property
    def streams(self) -> bool:
        """Whether each step reads weights from disk."""
        return self._streamer is not None

    @property
    def num_waiting(self) -> int:
        """Sequences in the queue."""
        return len(self._scheduler.waiting)

    def prepare(self, request: GenerationRequest, *, waiting: int) -> PreparedRequest:
        """Check a request and build what its sequences need. Raises RequestError.

        Changes nothing in the engine, so any thread may call it.
        """
        admitted = self._door.admit(request, waiting=waiting)
        parts = []
        for index in range(request.sampling.n):
            sequence = Sequence(
                sequence_id=f"{request.request_id}/{index}",
                request=request,
                index=index,
                token_ids=list(request.prompt_token_ids),
                max_output=admitted.max_output,
            )
            parts.append(Live(sequence, *self._door.equip(sequence, admitted)))
        return PreparedRequest(request, parts)

    def enqueue(self, prepared: PreparedRequest) -> None:
        """The sequences of a prepared request join the queue. Its id must not be in use."""
        self._roster.join(prepared, time.monotonic())

    def add(self, request: GenerationRequest) -> None:
        """Accept a request. Raises RequestError, changing nothing."""
        self.enqueue(self.prepare(request, waiting=self.num_waiting))

    def abort(self, request_id: str) -> list[Delta]:
        """End a request now; its blocks are free when this returns. Unknown ids are ignored."""
        deltas = self._roster.abort(request_id)
        self.prefixes.clean()
        return deltas

    def fail(self, request_id: str, error: StepwellError) -> list[Delta]:
        """End a request with an error."""
        return self._roster.fail(request_id, error)

    def step(self) -> list[Delta]:
        """Run one forward pass; returns what it added to whom. Nothing may be runnable while
        chunks are being loaded: see `wait_for_transfers`."""
        start = time.monotonic()
        if self.tiers is not None:
            self.tiers.tick(start)
        self.prefixes.clean()
        plan = self._scheduler.schedule(start)
        self._idle = not plan
        for order in self._cache.take_orders():
            self._pool.copy_block(source=order.source, target=order.target)
            self._cache.complete(order)
        if not plan:
            return []
        deltas = self._run(plan)
        if self.tiers is not None:
            self._observe(self.tiers, plan, start)
        self._roster.counters.add_waste(self._cache)
        self.prefixes.clean()
        if self._check_every_step:
            self._cache.check()
        return deltas

    def end_early(self) -> None:
        """There is something for the engine to look at: several steps in one go, if they are
        running, end after the present one. Any thread may call it."""
        self._runner.end_early()

    def go_on(self) -> None:
        """What `end_early` was called for is looked at next."""
        self._runner.go_on()

    @property
    def blocked(self) -> bool:
        """Whether the last step had nothing to run because everything waits for a transfer."""
        return self._idle and self.tiers is not None and self.tiers.awaited

    def wait_for_transfers(self, timeout: float) -> None:
        """Sleep until a transfer has ended, at most `timeout` seconds."""
        if self.tiers is not None:
            self.tiers.transfers.wait(timeout)

    def tend(self) -> None:
        """What lower tiers need while nobody is served: reports, expiry, promotion."""
        if self.tiers is not None:
            self.tiers.tick(time.monotonic())
        self.prefixes.clean()

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        pool, scheduler, counters = self._cache.pool, self._scheduler, self._roster.counters
        block = self._pool.block_bytes
        tiers = self.tiers
        now, size = time.monotonic(), self._cache.block_size
        started = [(s.scheduled_at, s.first_token_at) for s in scheduler.running]
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            steps=counters.steps,
            prompt_tokens=counters.prompt_tokens,
            generation_tokens=counters.generation_tokens,
            prefix_queries=scheduler.prefix_queries,
            prefix_hits=scheduler.prefix_hits,
            preemptions=scheduler.preemptions,
            finished=dict(counters.finished),
            kv_format=self._pool.form.value,
            blocks_total=pool.num_blocks,
            blocks_used=pool.num_used,
            blocks_cached=pool.num_cached,
            memory=MemoryUse(
                weights=self._weight_bytes,
                pool=self._pool.nbytes,
                used=pool.num_used * block,
                cached=pool.num_cached * block,
                waste=self._cache.unused_slots() * block // self._cache.block_size,
                workspace=self._runner.nbytes,
                packed=self.packed_bytes(),
            ),
            waste_ratio_mean=counters.waste_sum / max(1, counters.waste_samples),
            kv_tokens=pool.num_blocks * size,
            evicted_tokens=pool.evictions * size,
            returned_tokens=pool.returns * size,
            oldest_running=max((now - at for at, _ in started if at), default=0.0),
            oldest_prefill=max(
                (now - at for at, token in started if at and not token), default=0.0
            ),
            restored_tokens=0 if tiers is None else tiers.restored_tokens,
            tiers=None if tiers is None else tiers.hierarchy.stats(),
            streaming=None if self._streamer is None else self._streamer.stats(),
            prefixes=self.prefixes.stats(),
        )

    def workspace(self) -> list[Tensor]:
        """Buffers of a step, rows between kernels."""
        return self._runner.buffers

    def packed_bytes(self) -> int:
        """Of coded fronts of rolling sequences; any thread may ask."""
        running = list(self._scheduler.running)
        return sum(s.packed.nbytes for s in running if s.packed is not None)

    def clear_cache(self) -> int:
        """Evict every cached block; returns how many."""
        return self._cache.pool.clear_cached()

    def reset_counters(self) -> None:
        """Start counting anew (after warm-up)."""
        self._roster.counters = Counters()
        self._scheduler.reset_counters()
        if self._streamer is not None:
            self._streamer.reset()

    def check(self) -> None:
        """Re-count the books; raises AssertionError."""
        self._cache.check()

    def _run(self, plan: Seq[ScheduledSequence]) -> list[Delta]:
        """Forward the plan. If that raises, each entry alone, so that only the culprits fail
        (writing K and V again into the same slots changes nothing)."""
        steps, tokens = self._steps_for(plan), None
        start = time.monotonic()
        try:
            if steps > 1:
                tokens, _ = self._runner.decode(plan, self._cache, steps=steps)
                steps = len(tokens)
            else:
                result = self._runner.run(plan, self._cache)
        except Exception as error:
            if len(plan) == 1:
                logger.exception("step failed for %s", plan[0].sequence.sequence_id)
                failure = StepFailed(f"the forward pass failed: {type(error).__name__}: {error}")
                return [self._roster.fail_sequence(plan[0].sequence, failure)]
            logger.warning("a step of %d sequences failed (%s); retrying singly", len(plan), error)
            return [delta for item in plan for delta in self._run([item])]
        roster = self._roster
        roster.counters.steps += steps
        if self._ahead is not None and only_decodes(plan):
            took = time.monotonic() - start
            self._ahead.observe(sequences=len(plan), steps=steps, seconds=took)
        return roster.apply(plan, result) if tokens is None else roster.apply_all(plan, tokens)

    def _steps_for(self, plan: Seq[ScheduledSequence]) -> int:
        """Steps to run before looking again; the pool has room for them."""
        if self._ahead is None or not only_decodes(plan) or not self._runner.can_decode(plan):
            return 1
        steps = self._ahead.steps_for(plan)
        return steps if steps > 1 and self._scheduler.grow_ahead(plan, steps) else 1

    @staticmethod
    def _observe(tiers: Tiers, plan: Seq[ScheduledSequence], start: float) -> None:
        """Tell the cost model what prompt tokens cost. The decoding rows of the step are counted
        with them: under load they are part of the price."""
        prompts = [item for item in plan if item.count > 1]
        tokens = sum(item.count for item in prompts)
        if not tokens:
            return
        now = time.monotonic()
        context = sum(item.start * item.count for item in prompts) // tokens
        tiers.observe(tokens=tokens, context=context, seconds=now - start, now=now)
