"""The unfinished sequences, and what a step's results do to them: sample -> commit -> emit.

Each sequence that joins leaves with exactly one finishing Delta. One whose own sampling raises ends
with an error and takes no other with it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from stepwell.base.errors import StepFailed, StepwellError
from stepwell.base.request import Delta, FinishReason, GenerationRequest, TokenLogprobs
from stepwell.cache.manager import CacheManager
from stepwell.engine.emit import Emitter
from stepwell.engine.runner import StepLogits
from stepwell.engine.sampler import SamplerState, logprobs_of, sample_greedy, sample_one
from stepwell.engine.scheduler import ScheduledSequence, Scheduler
from stepwell.engine.sequence import Sequence, SequenceState

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Live:
    """What the engine keeps of one unfinished sequence."""

    sequence: Sequence
    sampler: SamplerState
    emitter: Emitter


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that passed the door, with the sequences it will become."""

    request: GenerationRequest
    parts: list[Live]


@dataclass(slots=True)
class Counters:
    """What has happened since the start, or since they were reset."""

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


class Roster:
    """Owns the unfinished sequences, by request and by sequence, and the counters. Uses the
    scheduler and the brain to let go of what is finished."""

    def __init__(self, *, cache: CacheManager, scheduler: Scheduler) -> None:
        self._cache = cache
        self._scheduler = scheduler
        self._by_request: dict[str, list[Live]] = {}
        self._by_sequence: dict[Sequence, Live] = {}
        self.counters = Counters()

    def __len__(self) -> int:
        """Unfinished requests."""
        return len(self._by_request)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._by_request

    def join(self, prepared: PreparedRequest, now: float) -> None:
        """The sequences of a request join the queue. Its id must not be in use."""
        assert prepared.request.request_id not in self, "request id in use"
        self._by_request[prepared.request.request_id] = prepared.parts
        for item in prepared.parts:
            self._by_sequence[item.sequence] = item
            self._scheduler.add(item.sequence, now)

    def abort(self, request_id: str) -> list[Delta]:
        """End a request now; its blocks are free when this returns. Unknown ids are ignored."""
        deltas = []
        for item in self._unfinished(request_id):
            item.sequence.finish_reason = FinishReason.ABORT
            deltas.append(self._finish(item, time.monotonic()))
        return deltas

    def fail(self, request_id: str, error: StepwellError) -> list[Delta]:
        """End a request with an error."""
        return [self._fail_one(item, error) for item in self._unfinished(request_id)]

    def fail_sequence(self, sequence: Sequence, error: StepwellError) -> Delta:
        """End one sequence with an error."""
        return self._fail_one(self._by_sequence[sequence], error)

    def _unfinished(self, request_id: str) -> list[Live]:
        items = self._by_request.get(request_id, ())
        return [item for item in items if item.sequence.state is not SequenceState.FINISHED]

    def apply(self, plan: Seq[ScheduledSequence], result: StepLogits) -> list[Delta]:
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

    def apply_all(self, plan: Seq[ScheduledSequence], tokens: Seq[Seq[int]]) -> list[Delta]:
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

    def _sample_plain(self, plan: Seq[ScheduledSequence], result: StepLogits) -> dict[int, int]:
        """Tokens of the plain greedy rows, by plan position: one argmax for all of them."""
        positions = [
            i
            for i, item in enumerate(plan)
            if item.samples and item.sequence.sampling.takes_likeliest
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
        live: Live,
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
            self.counters.prompt_tokens += sequence.prompt_length
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
        self, live: Live, token: int, logprobs: tuple[TokenLogprobs, ...], now: float
    ) -> Delta | None:
        """Append the token and decide whether the sequence ends."""
        sequence, sampler = live.sequence, live.sampler
        self.counters.generation_tokens += 1
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
        self, live: Live, item: ScheduledSequence, result: StepLogits, rows: slice
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
        live: Live,
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
        siblings = self._by_request[sequence.request.request_id]
        siblings.remove(live)
        if not siblings:
            del self._by_request[sequence.request.request_id]
        self.counters.finished[sequence.finish_reason.value] += 1
        return live.emitter.final_delta(
            sequence, token=token, text=text, logprobs=logprobs, now=now
        )

    def _fail_one(self, live: Live, error: StepwellError) -> Delta:
        live.sequence.finish_reason = FinishReason.ERROR
        live.sequence.error = error
        return self._finish(live, time.monotonic())


def _failure(error: Exception, item: ScheduledSequence) -> StepwellError:
    """What the sequence ends with."""
    if isinstance(error, StepwellError):
        return error
    logger.error("sampling failed for %s", item.sequence.sequence_id, exc_info=error)
    return StepFailed(f"sampling failed: {error!r}")
