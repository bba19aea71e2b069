"""One choice of one request while it lives in the engine."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.base.errors import StepwellError
from stepwell.base.request import FinishReason, GenerationRequest, TokenLogprobs
from stepwell.base.sampling import SamplingParams
from stepwell.engine.restore import Restore

if TYPE_CHECKING:  # scheduling needs no torch
    from stepwell.model.packed import PackedFront


class SequenceState(enum.Enum):
    """Where a sequence is. WAITING -> RUNNING -> FINISHED; preemption goes back to WAITING."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens and progress of one choice. Owned by the engine's thread.

    `token_ids`: prompt, then output. `computed`: how many of them have K and V in the pool; a
    decoding sequence has exactly one more token than that. `keys`: block keys of the tokens,
    kept so that a waiting sequence is hashed once. `row`: of the step's block table, while
    running; `admission`: which admission of the engine took it there, never given twice.
    `restore`: loads from lower tiers under way, or landed ahead of `computed`. `lookup`: the order
    id of a question to a shared tier; the sequence is not admitted before the answer. `packed`: its
    front, where that is kept coded beside the pool.
    """

    sequence_id: str
    request: GenerationRequest
    index: int
    token_ids: list[int]
    max_output: int
    state: SequenceState = SequenceState.WAITING
    computed: int = 0
    cached: int | None = None
    keys: list[bytes] = field(default_factory=list)
    row: int = -1
    admission: int = -1
    restore: Restore | None = None
    lookup: int | None = None
    packed: PackedFront | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: StepwellError | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    scheduled_at: float | None = None
    first_token_at: float | None = None
    preemptions: int = 0

    @property
    def sampling(self) -> SamplingParams:
        """Settings of the request."""
        return self.request.sampling

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_token_ids)

    @property
    def output_length(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - self.prompt_length

    @property
    def pending(self) -> int:
        """Tokens that have no K and V yet."""
        return len(self.token_ids) - self.computed

    @property
    def runnable(self) -> int:
        """Pending tokens that may be computed now, while chunks are being loaded."""
        limit = None if self.restore is None else self.restore.runnable(self.computed)
        return self.pending if limit is None else min(self.pending, limit)

    @property
    def packed_tokens(self) -> int:
        """Tokens whose K and V are kept coded beside the pool."""
        return 0 if self.packed is None else self.packed.tokens

    @property
    def rank(self) -> tuple[int, float, str]:
        """Order of service: priority, then arrival."""
        return (self.request.priority, self.request.arrival, self.sequence_id)

    @property
    def skips_prefix_cache(self) -> bool:
        """Prompt logprobs need the logits of every prompt token, so all are computed."""
        wanted = self.sampling.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < self.prompt_length
