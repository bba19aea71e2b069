"""The step loop: schedule -> copy -> forward -> sample -> commit -> emit.

Single-threaded: whoever calls `step` owns everything in here. Each accepted request ends in
exactly one finishing Delta per choice. A request whose own step raises ends with an error and
takes no other with it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from torch import Tensor

from stepwell.base.errors import StepFailed, StepwellError
from stepwell.base.request import (
    Delta,
    EngineStats,
    FinishReason,
    GenerationRequest,
    MemoryUse,
    TokenLogprobs,
)
from stepwell.cache.manager import CacheManager
from stepwell.engine.ahead import Ahead, only_decodes
from stepwell.engine.door import Door
from stepwell.engine.emit import Emitter
from stepwell.engine.runner import ModelRunner, StepLogits
from stepwell.engine.sampler import SamplerState, logprobs_of, sample_greedy, sample_one
from stepwell.engine.scheduler import ScheduledSequence, Scheduler
from stepwell.engine.sequence import Sequence, SequenceState
from stepwell.engine.tiers import Tiers
from stepwell.model.pool import KVPool
from stepwell.model.streaming import Streamer

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """What the engine keeps of one unfinished sequence."""

    sequence: Sequence
    sampler: SamplerState
    emitter: Emitter


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that passed the door, with the sequences it will become."""

    request: GenerationRequest
    parts: list[_Live]


@dataclass(slots=True)
class _Counters:
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    waste_sum: float = 0.0
    waste_samples: int = 0

    def add_waste(self, cache: CacheManager) -> None:
        """Sample unused slots / slots of used blocks, after a step."""
        slots = cache.pool.num_used * cache.block_size
        if slots:
            self.waste_sum += cache.unused_slots() / slots
            self.waste_samples += 1


class Engine:
    """Owns the sequences, the scheduler, the brain's instance and the pool."""

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
        self._live: dict[str, list[_Live]] = {}
        self._by_sequence: dict[Sequence, _Live] = {}
        self._counters = _Counters()
        self._idle = False

    @property
    def has_work(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._live)

    def has_request(self, request_id: str) -> bool:
        """Whether this request is unfinished."""
        return request_id in self._live

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
            parts.append(_Live(sequence, *self._door.equip(sequence, admitted)))
        return PreparedRequest(request, parts)

    def enqueue(self, prepared: PreparedRequest) -> None:
        """The sequences of a prepared request join the queue. Its id must not be in use."""
        assert prepared.request.request_id not in self._live, "request id in use"
        self._live[prepared.request.request_id] = prepared.parts
        now = time.monotonic()
        for item in prepared.parts:
            self._by_sequence[item.sequence] = item
            self._scheduler.add(item.sequence, now)

    def add(self, request: GenerationRequest) -> None:
        """Accept a request. Raises RequestError, changing nothing."""
        self.enqueue(self.prepare(request, waiting=self.num_waiting))

    def abort(self, request_id: str) -> list[Delta]:
        """End a request now; its blocks are free when this returns. Unknown ids are ignored."""
        deltas = []
        for item in list(self._live.get(request_id, ())):
            if item.sequence.state is not SequenceState.FINISHED:
                item.sequence.finish_reason = FinishReason.ABORT
                deltas.append(self._finish(item, time.monotonic()))
        return deltas

    def fail(self, request_id: str, error: StepwellError) -> list[Delta]:
        """End a request with an error."""
        deltas = []
        for item in list(self._live.get(request_id, ())):
            if item.sequence.state is not SequenceState.FINISHED:
                deltas.append(self._fail_one(item, error))
        return deltas

    def step(self) -> list[Delta]:
        """Run one forward pass; returns what it added to whom. Nothing may be runnable while
        chunks are being loaded: see `wait_for_transfers`."""
        start = time.monotonic()
        if self.tiers is not None:
            self.tiers.tick(start)
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
        self._counters.add_waste(self._cache)
        if self._check_every_step:
            self._cache.check()
        return deltas

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

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        pool, scheduler, counters = self._cache.pool, self._scheduler, self._counters
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
        self._counters = _Counters()
        self._scheduler.reset_counters()
        if self._streamer is not None:
            self._streamer.reset()

    def check(self) -> None:
        """Re-count the books; raises AssertionError."""
        self._cache.check()

    def _run(self, plan: Seq[ScheduledSequence]) -> list[Delta]:
        """Forward the plan. If that raises, each entry alone, so that only the culprits fail
        (writing K and V again into the same slots changes nothing)."""
        steps = self._steps_for(plan)
        start = time.monotonic()
        try:
            if steps > 1:
                tokens, _ = self._runner.decode(plan, self._cache, steps=steps)
            else:
                result = self._runner.run(plan, self._cache)
        except Exception as error:
            if len(plan) == 1:
                logger.exception("step failed for %s", plan[0].sequence.sequence_id)
                failure = StepFailed(f"the forward pass failed: {type(error).__name__}: {error}")
                return [self._fail_one(self._by_sequence[plan[0].sequence], failure)]
            logger.warning("a step of %d sequences failed (%s); retrying singly", len(plan), error)
            return [delta for item in plan for delta in self._run([item])]
        self._counters.steps += steps
        if self._ahead is not None and only_decodes(plan):
            took = time.monotonic() - start
            self._ahead.observe(sequences=len(plan), steps=steps, seconds=took)
        return self._apply_all(plan, tokens) if steps > 1 else self._apply(plan, result)

    def _steps_for(self, plan: Seq[ScheduledSequence]) -> int:
        """Steps to run before looking again; the pool has room for them."""
        if self._ahead is None or not only_decodes(plan) or not self._runner.can_decode(plan):
            return 1
        steps = self._ahead.steps_for(plan)
        return steps if steps > 1 and self._scheduler.grow_ahead(plan, steps) else 1

    def _apply_all(self, plan: Seq[ScheduledSequence], tokens: Seq[Seq[int]]) -> list[Delta]:
        """Commit and emit several steps. What was computed for a sequence behind its end is of no
        use: it lies in slots behind its last token, which nobody reads."""
        deltas = []
        for step, chosen in enumerate(tokens):
            for item, token in zip(plan, chosen, strict=True):
                live = self._by_sequence.get(item.sequence)
                if live is None:
                    continue
                one = ScheduledSequence(item.sequence, item.start + step, 1)
                try:
                    self._commit(one)
                    delta = self._accept(live, token, (), time.monotonic())
                except Exception as error:
                    delta = self._fail_one(live, _failure(error, item))
                if delta is not None:
                    deltas.append(delta)
        return deltas

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

    def _apply(self, plan: Seq[ScheduledSequence], result: StepLogits) -> list[Delta]:
        """Commit what was computed, sample where a new token is due, emit."""
        now = time.monotonic()
        greedy = self._sample_plain(plan, result)
        deltas = []
        for position, item in enumerate(plan):
            live = self._by_sequence[item.sequence]
            try:
                delta = self._advance(live, item, result, position, greedy, now)
            except Exception as error:
                delta = self._fail_one(live, _failure(error, item))
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _sample_plain(self, plan: Seq[ScheduledSequence], result: StepLogits) -> dict[int, int]:
        """Tokens of the plain greedy rows, by plan position: one argmax for all of them."""
        positions = [
            i
            for i, item in enumerate(plan)
            if item.samples and self._by_sequence[item.sequence].sampler.is_plain_greedy
        ]
        if not positions:
            return {}
        rows = [result.rows[i].stop - 1 for i in positions]
        if result.likeliest is not None:
            return {i: result.likeliest[row] for i, row in zip(positions, rows, strict=True)}
        whole = rows == list(range(result.logits.shape[0]))
        logits = result.logits if whole else result.logits[rows]
        return dict(zip(positions, sample_greedy(logits), strict=True))

    def _advance(
        self,
        live: _Live,
        item: ScheduledSequence,
        result: StepLogits,
        position: int,
        greedy: dict[int, int],
        now: float,
    ) -> Delta | None:
        sequence, rows = live.sequence, result.rows[position]
        if sequence.skips_prefix_cache:
            self._add_prompt_logprobs(live, item, result, rows)
        self._commit(item)
        if not item.samples:
            return None
        if sequence.first_token_at is None:
            self._counters.prompt_tokens += sequence.prompt_length
            if sequence.max_output == 0:
                sequence.finish_reason = FinishReason.LENGTH
                return self._finish(live, now)
            sequence.first_token_at = now
        logits = result.logits[rows.stop - 1]
        token = greedy[position] if position in greedy else sample_one(logits, live.sampler)
        logprobs: tuple[TokenLogprobs, ...] = ()
        if sequence.sampling.logprobs is not None:
            logprobs = tuple(
                logprobs_of(logits.unsqueeze(0), [token], count=sequence.sampling.logprobs)
            )
        return self._accept(live, token, logprobs, now)

    def _commit(self, item: ScheduledSequence) -> None:
        """K and V of these tokens are in the pool."""
        sequence = item.sequence
        sequence.computed = item.start + item.count
        self._cache.commit(sequence.sequence_id, sequence.token_ids, computed=sequence.computed)

    def _accept(
        self, live: _Live, token: int, logprobs: tuple[TokenLogprobs, ...], now: float
    ) -> Delta | None:
        """Append the token and decide whether the sequence ends."""
        sequence, sampler = live.sequence, live.sampler
        self._counters.generation_tokens += 1
        sequence.token_ids.append(token)
        ends = token in sampler.stop_ids and sequence.output_length > sequence.sampling.min_tokens
        if sampler.grammar is not None and not ends:
            sampler.grammar.accept(token)
        text = "" if ends else live.emitter.push(token)
        if ends:
            sequence.finish_reason = FinishReason.STOP
            sequence.stop_reason = token if token in sequence.sampling.stop_token_ids else None
        elif live.emitter.stopped_by is not None:
            sequence.finish_reason = FinishReason.STOP
            sequence.stop_reason = live.emitter.stopped_by
        elif sequence.output_length >= sequence.max_output:
            sequence.finish_reason = FinishReason.LENGTH
        if sequence.finish_reason is not None:
            return self._finish(live, now, token=token, text=text, logprobs=logprobs)
        return live.emitter.delta(sequence, token=token, text=text, logprobs=logprobs)

    def _add_prompt_logprobs(
        self, live: _Live, item: ScheduledSequence, result: StepLogits, rows: slice
    ) -> None:
        """Row r of the chunk predicts token start + r + 1."""
        sequence = live.sequence
        if not sequence.prompt_logprobs:
            sequence.prompt_logprobs.append(None)
        end = min(item.start + item.count + 1, sequence.prompt_length)
        targets = sequence.token_ids[item.start + 1 : end]
        if targets:
            logits = result.logits[rows.start : rows.start + len(targets)]
            sequence.prompt_logprobs += logprobs_of(
                logits, targets, count=sequence.sampling.prompt_logprobs or 0
            )

    def _finish(
        self,
        live: _Live,
        now: float,
        *,
        token: int | None = None,
        text: str = "",
        logprobs: tuple[TokenLogprobs, ...] = (),
    ) -> Delta:
        """Free everything and build the last delta."""
        sequence = live.sequence
        assert sequence.finish_reason is not None
        self._scheduler.finish(sequence, now)
        del self._by_sequence[sequence]
        siblings = self._live[sequence.request.request_id]
        siblings.remove(live)
        if not siblings:
            del self._live[sequence.request.request_id]
        self._counters.finished[sequence.finish_reason.value] += 1
        return live.emitter.final_delta(
            sequence, token=token, text=text, logprobs=logprobs, now=now
        )

    def _fail_one(self, live: _Live, error: StepwellError) -> Delta:
        live.sequence.finish_reason = FinishReason.ERROR
        live.sequence.error = error
        return self._finish(live, time.monotonic())


def _failure(error: Exception, item: ScheduledSequence) -> StepwellError:
    """What the sequence ends with."""
    if isinstance(error, StepwellError):
        return error
    logger.error("sampling failed for %s", item.sequence.sequence_id, exc_info=error)
    return StepFailed(f"sampling failed: {error!r}")
