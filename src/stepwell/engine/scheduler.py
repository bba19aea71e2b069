"""Which tokens of which sequences run in the next step.

A step has a budget of tokens. Sequences that decode take one each; what is left goes to prompts,
in chunks. Then waiting sequences are admitted in order of (priority, arrival):

- the head of the queue waits until the blocks of its *whole* prompt are to be had, so that
  half-computed prompts do not starve each other;
- one whose next block is being computed by another right now waits for that block instead of
  computing it twice;
- when blocks run out, the last in order is preempted: its blocks go back, the full ones stay
  findable, and it waits again at its old place. A sequence alone always fits (the door checks);
- a sequence that outgrows its share of the pool has its front packed, where that is asked for
  (`engine/rolling.py`);
- with lower tiers, the head is admitted with a restore plan; what is being loaded takes no part in
  a step until it has landed (`engine/restore.py`).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from stepwell.cache.manager import CacheManager, PrefixMatch, Room
from stepwell.cache.plan import RestorePlan
from stepwell.engine.sequence import Sequence, SequenceState

if TYPE_CHECKING:  # scheduling needs no torch
    from stepwell.engine.rolling import Rolling


@dataclass(frozen=True, slots=True)
class ScheduledSequence:
    """`count` tokens of `sequence` from position `start` run in this step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def samples(self) -> bool:
        """Whether the last of these tokens predicts a new one."""
        return self.start + self.count == len(self.sequence.token_ids)


class LowerTiers(Protocol):
    """What the scheduler asks of `engine/tiers.py`; None where there are no lower tiers."""

    def arrive(self, sequence: Sequence, now: float) -> None: ...
    def plan(
        self, sequence: Sequence, match: PrefixMatch, now: float, *, ahead: int
    ) -> RestorePlan: ...
    def match_for(self, plan: RestorePlan, match: PrefixMatch) -> PrefixMatch: ...
    def without_loads(self, plan: RestorePlan) -> RestorePlan: ...
    def tokens_for(self, plan: RestorePlan) -> int: ...
    def begin(self, sequence: Sequence, plan: RestorePlan, now: float) -> None: ...
    def overtake(self, sequence: Sequence, budget: int, now: float) -> None: ...
    def close(self, sequence: Sequence, now: float) -> None: ...
    def leave_queue(self, sequence: Sequence) -> None: ...


class Scheduler:
    """Owns the waiting and running sequences, both sorted by rank."""

    def __init__(
        self,
        cache: CacheManager,
        *,
        max_step_tokens: int,
        max_sequences: int,
        tiers: LowerTiers | None = None,
        rolling: Rolling | None = None,
    ) -> None:
        self._cache = cache
        self._rolling = rolling
        self._tiers = tiers
        self._max_step_tokens = max_step_tokens
        self._max_sequences = max_sequences
        self._rows = list(range(max_sequences - 1, -1, -1))
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._admissions = itertools.count()
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0

    def reset_counters(self) -> None:
        """Start counting anew."""
        self.prefix_queries = self.prefix_hits = self.preemptions = 0

    def add(self, sequence: Sequence, now: float = 0.0) -> None:
        """Queue a new sequence at its rank."""
        if self._tiers is not None and not sequence.skips_prefix_cache:
            self._cache.extend_keys(
                sequence.keys, sequence.token_ids, tenant=sequence.request.tenant
            )
            self._tiers.arrive(sequence, now)
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def finish(self, sequence: Sequence, now: float = 0.0) -> None:
        """Take a sequence out, wherever it is; its blocks go back at once."""
        if sequence.state is SequenceState.RUNNING:
            self._stop_running(sequence, now)
        elif sequence.state is SequenceState.WAITING:
            self.waiting.remove(sequence)
            if self._tiers is not None:
                self._tiers.leave_queue(sequence)
        sequence.state = SequenceState.FINISHED

    def schedule(self, now: float) -> list[ScheduledSequence]:
        """The next step, decoding sequences first. Empty when nothing can run."""
        planned: dict[Sequence, ScheduledSequence] = {}
        budget = self._max_step_tokens
        preempted_before = self.preemptions
        decodes = [s for s in self.running if s.pending == 1]
        prompts = [s for s in self.running if s.pending > 1]
        for sequence in decodes + prompts:
            if sequence.state is not SequenceState.RUNNING or not budget:
                continue
            if sequence.restore is not None and self._tiers is not None:
                self._tiers.overtake(sequence, budget, now)
            count = min(sequence.runnable, budget)
            if self._rolling is not None:
                self._rolling.shrink(sequence, sequence.computed + count)
            if count and self._make_room(sequence, sequence.computed + count, planned, now):
                planned[sequence] = ScheduledSequence(sequence, sequence.computed, count)
                budget = self._max_step_tokens - sum(p.count for p in planned.values())
        if self.preemptions == preempted_before:
            self._admit_waiting(planned, budget, now)
        return sorted(planned.values(), key=lambda p: p.count > 1)

    def grow_ahead(self, plan: Seq[ScheduledSequence], steps: int) -> bool:
        """Room for so many steps of the sequences of a step that was just scheduled, if nothing has
        to give way to them and nothing waits."""
        if self.waiting or self._rolling is not None or len(plan) < len(self.running):
            return False
        return all(
            self._cache.grow(item.sequence.sequence_id, tokens=item.start + steps) is Room.GRANTED
            for item in plan
        )

    def _make_room(
        self,
        sequence: Sequence,
        tokens: int,
        planned: dict[Sequence, ScheduledSequence],
        now: float,
    ) -> bool:
        """Grow, preempting from the end of the order; False if it preempted itself."""
        while self._cache.grow(sequence.sequence_id, tokens=tokens) is Room.NO_ROOM:
            victim = self.running[-1]
            planned.pop(victim, None)
            self._preempt(victim, now)
            if victim is sequence:
                return False
        return True

    def _admit_waiting(
        self, planned: dict[Sequence, ScheduledSequence], budget: int, now: float
    ) -> None:
        """Admit from the head of the queue while budget, rows and blocks last."""
        position = 0
        while position < len(self.waiting) and budget > 0:
            sequence = self.waiting[position]
            match = self._lookup(sequence)
            if match.awaited or sequence.lookup is not None:
                position += 1
                continue
            while not self._has_room(sequence, match):
                if match.copy_last:
                    match = match.without_copy(self._cache.block_size)
                elif self._yield_to(sequence, planned, now):
                    match = self._lookup(sequence)
                else:
                    return
            self._admit(sequence, match, budget, now)
            count = min(sequence.runnable, budget)
            if count:
                planned[sequence] = ScheduledSequence(sequence, sequence.computed, count)
            budget -= count

    def _lookup(self, sequence: Sequence) -> PrefixMatch:
        if sequence.skips_prefix_cache:
            return PrefixMatch()
        match = self._cache.lookup(
            sequence.token_ids, tenant=sequence.request.tenant, keys=sequence.keys
        )
        if self._rolling is not None and match.tokens > self._rolling.resident_tokens:
            size = self._cache.block_size
            match = match.up_to(self._rolling.resident_tokens // size, size)
        return match

    def _has_room(self, sequence: Sequence, match: PrefixMatch) -> bool:
        """Blocks for all its tokens, beside what running prompts still need and one block to grow
        for each running sequence."""
        if not self._rows:
            return False
        promised = len(self.running) + sum(
            max(
                0,
                self._cache.blocks_for(self._tokens_held(s, s.computed - s.packed_tokens))
                - len(self._cache.blocks_of(s.sequence_id)),
            )
            for s in self.running
            if s.pending > 1
        )
        needed = self._cache.room_needed(match, self._tokens_held(sequence, match.tokens))
        return needed + promised <= self._cache.pool.num_available

    def _tokens_held(self, sequence: Sequence, resident: int) -> int:
        """Tokens of its prompt that the pool holds at once, at most, given those there now."""
        if self._rolling is None:
            return len(sequence.token_ids)
        return self._rolling.tokens_held(sequence, resident)

    def _yield_to(
        self, sequence: Sequence, planned: dict[Sequence, ScheduledSequence], now: float
    ) -> bool:
        """Preempt the last running sequence if it has a lower priority than this one."""
        if not self.running:
            return False
        victim = self.running[-1]
        if victim.request.priority <= sequence.request.priority:
            return False
        planned.pop(victim, None)
        self._preempt(victim, now)
        return True

    def _admit(self, sequence: Sequence, match: PrefixMatch, budget: int, now: float) -> None:
        """Take the row and the blocks for the first chunk of the prompt and for what is loaded."""
        plan, loaded = None, 0
        rolls = self._rolling is not None and self._rolling.rolls(sequence)
        if self._tiers is not None and not sequence.skips_prefix_cache and not rolls:
            ahead = sum(s.pending for s in self.running if s.pending > 1)
            plan = self._tiers.plan(sequence, match, now, ahead=ahead)
            trimmed = self._tiers.match_for(plan, match)
            if (
                self._cache.room_needed(trimmed, len(sequence.token_ids))
                > self._cache.pool.num_available
            ):
                plan = self._tiers.without_loads(plan)
            else:
                match, loaded = trimmed, self._tiers.tokens_for(plan)
        first = match.tokens + min(len(sequence.token_ids) - match.tokens, budget)
        room = self._cache.admit(
            sequence.sequence_id,
            match,
            tenant=sequence.request.tenant,
            tokens=max(first, loaded),
            keys=sequence.keys,
            marks=sequence.request.marks,
        )
        assert room is Room.GRANTED, "the room was checked"
        self.waiting.remove(sequence)
        bisect.insort(self.running, sequence, key=lambda s: s.rank)
        sequence.state = SequenceState.RUNNING
        sequence.row = self._rows.pop()
        sequence.admission = next(self._admissions)
        sequence.computed = match.tokens
        self.prefix_queries += len(sequence.token_ids)
        self.prefix_hits += match.tokens
        if sequence.cached is None:
            sequence.cached = match.tokens
            sequence.scheduled_at = now
        if plan is not None and self._tiers is not None:
            self._tiers.begin(sequence, plan, now)

    def _preempt(self, sequence: Sequence, now: float) -> None:
        self._stop_running(sequence, now)
        sequence.state = SequenceState.WAITING
        sequence.computed = 0
        sequence.packed = None
        if sequence.skips_prefix_cache:
            sequence.prompt_logprobs.clear()
        sequence.preemptions += 1
        self.preemptions += 1
        bisect.insort(self.waiting, sequence, key=lambda s: s.rank)

    def _stop_running(self, sequence: Sequence, now: float) -> None:
        self.running.remove(sequence)
        if self._tiers is not None:
            self._tiers.close(sequence, now)
        self._cache.release(sequence.sequence_id)
        self._rows.append(sequence.row)
        sequence.row = -1
