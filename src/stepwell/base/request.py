"""What goes into the engine and what comes out: plain data, no behaviour.

A `GenerationRequest` enters once; `Delta`s leave, one or more per choice, the last of each choice
carrying a finish reason. A request is over when all its `n` choices have finished.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from stepwell.base.errors import StepwellError
from stepwell.base.hierarchy import WorkloadClass
from stepwell.base.prefix import Mark, PrefixStats
from stepwell.base.sampling import SamplingParams
from stepwell.base.tier_stats import HierarchyStats


class FinishReason(enum.Enum):
    """Why a choice ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request, tokenized. `tenant` salts the prefix key, so tenants never share blocks.

    `priority`: lower runs first (as in vLLM). `arrival`: seconds on the monotonic clock.

    The rest says what becomes of its context in lower tiers. `store`: whether it may go there at
    all. `session_id`: requests of one conversation; None: recognized by its prefix. `workload`:
    None: by the tenant, or inferred. `ttl`: seconds that its context may stay unused. `pin`:
    protect it from eviction. `marks`: what its prompt holds that may have to be forgotten.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    arrival: float
    priority: int = 0
    tenant: str = ""
    store: bool = True
    session_id: str | None = None
    workload: WorkloadClass | None = None
    ttl: float | None = None
    pin: bool = False
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities at one position: the chosen token, its rank (1 is likeliest),
    and the likeliest alternatives, best first."""

    token_id: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one choice. `cached_tokens` of the prompt came from the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Moments of one choice in seconds on the monotonic clock; None where it never came to it."""

    arrival: float
    scheduled: float | None
    first_token: float | None
    finished: float
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step added to one choice of one request.

    `text` is the new text, `token_ids` the new tokens (a token may add no text until the next one
    completes its characters). `usage` and `timings` come with the finish reason;
    `prompt_logprobs` (first entry None: nothing predicts the first token) come with the first
    delta. `error` explains FinishReason.ERROR.
    """

    request_id: str
    index: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: StepwellError | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes of the device at one moment.

    `used`: blocks that a running sequence holds. `cached`: blocks that only the prefix cache
    holds. `waste`: slots inside used blocks that hold no token. `workspace`: step buffers.
    `packed`: fronts of rolling sequences, beside the pool.
    """

    weights: int = 0
    pool: int = 0
    used: int = 0
    cached: int = 0
    waste: int = 0
    workspace: int = 0
    packed: int = 0

    @property
    def free(self) -> int:
        """Bytes of the pool that hold nothing."""
        return self.pool - self.used - self.cached


@dataclass(frozen=True, slots=True)
class StreamStats:
    """Weights read again since the start or the last reset. `passes` over the layers;
    `read_seconds` with a read under way; `waited_seconds` that computing stood still for one;
    `seconds`: all time, idle time included; `checked_bytes` compared with their checksums."""

    passes: int
    read_bytes: int
    read_seconds: float
    waited_seconds: float
    seconds: float
    checked_bytes: int

    @property
    def bytes_per_second(self) -> float:
        """While reading; 0 where nothing was read."""
        return self.read_bytes / self.read_seconds if self.read_seconds else 0.0

    @property
    def bytes_per_pass(self) -> float:
        """Read for one step; 0 before the first."""
        return self.read_bytes / self.passes if self.passes else 0.0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the start, and gauges at this moment. `tiers`: None without lower tiers;
    `restored_tokens` came from them to the device instead of being computed. `streaming`: None
    where all weights stay in memory. `kv_format`: how the pool keeps K and V.

    `evicted_tokens` left the device's prefix cache for want of room; `returned_tokens` were asked
    for again after that. `oldest_running`: seconds since the first start of a running sequence;
    `oldest_prefill`: of one that has no token yet. 0.0: there is none."""

    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    preemptions: int = 0
    finished: dict[str, int] = field(default_factory=dict)
    kv_format: str = "model"
    blocks_total: int = 0
    blocks_used: int = 0
    blocks_cached: int = 0
    memory: MemoryUse = MemoryUse()
    waste_ratio_mean: float = 0.0
    kv_tokens: int = 0
    evicted_tokens: int = 0
    returned_tokens: int = 0
    oldest_running: float = 0.0
    oldest_prefill: float = 0.0
    restored_tokens: int = 0
    tiers: HierarchyStats | None = None
    streaming: StreamStats | None = None
    prefixes: PrefixStats = field(default_factory=PrefixStats)
