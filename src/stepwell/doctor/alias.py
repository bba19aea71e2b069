"""Whose page it is, and where each quantity is on it.

Names are without `_total`. The first source that is on the page counts. Read from the engines' own
sources: vLLM 0.4 to 0.33, SGLang 0.4 to 0.5, TGI 3, LMCache 0.5; `tests/doctor/fixtures` has a
page of each.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stepwell.doctor.page import Page
from stepwell.doctor.quantity import Quantity as Q

_GIB = float(1 << 30)


class Engine(enum.Enum):
    """What serves. LMCACHE: a page of LMCache alone; beside an engine's names it is added."""

    STEPWELL = "stepwell"
    VLLM_V0 = "vllm v0"
    VLLM_V1 = "vllm v1"
    SGLANG = "sglang"
    TGI = "tgi"
    LMCACHE = "lmcache"


@dataclass(frozen=True, slots=True)
class Source:
    """Samples of `name` whose labels contain `where`, times `scale`. `label`: its value is read
    instead, `times` multiplied by that of another label. `absent`: the value where the whole name
    is not on the page (counters with labels appear with their first event); None: unknown."""

    name: str
    where: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    label: str = ""
    times: str = ""
    absent: float | None = None


Aliases = Mapping[Q, tuple[Source, ...]]


def _named(prefix: str, names: Mapping[Q, str | tuple[str, ...]]) -> dict[Q, tuple[Source, ...]]:
    def sources(name: str | tuple[str, ...]) -> tuple[Source, ...]:
        return tuple(Source(prefix + n) for n in ((name,) if isinstance(name, str) else name))

    return {quantity: sources(name) for quantity, name in names.items()}


_CONFIG = "vllm:cache_config_info"
_GENERATION = {"handler": "/v1/*", "method": "POST"}

VLLM: Aliases = {
    **_named("vllm:", {
        Q.RUNNING: "num_requests_running",
        Q.WAITING: "num_requests_waiting",
        Q.SWAPPED: "num_requests_swapped",
        Q.KV_USAGE: ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        Q.HIT_RATE: "gpu_prefix_cache_hit_rate",
        Q.PREEMPTIONS: "num_preemptions",
        Q.PREFIX_QUERIES: ("prefix_cache_queries", "gpu_prefix_cache_queries"),
        Q.PREFIX_HITS: ("prefix_cache_hits", "gpu_prefix_cache_hits"),
        Q.EXTERNAL_QUERIES: "external_prefix_cache_queries",
        Q.EXTERNAL_HITS: "external_prefix_cache_hits",
        Q.PROMPT_TOKENS: "prompt_tokens",
        Q.GENERATION_TOKENS: "generation_tokens",
        Q.FINISHED: "request_success",
        Q.TTFT: "time_to_first_token_seconds",
        Q.ITL: ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        Q.E2E: "e2e_request_latency_seconds",
        Q.QUEUE_TIME: "request_queue_time_seconds",
        Q.PREFILL_TIME: "request_prefill_time_seconds",
        Q.DECODE_TIME: "request_decode_time_seconds",
        Q.PROMPT_LENGTH: "request_prompt_tokens",
        Q.OUTPUT_LENGTH: "request_generation_tokens",
        Q.IDLE_BEFORE_EVICT: "kv_block_idle_before_evict_seconds",
        Q.LOAD_TIME: "kv_offload_load_time",
    }),
    Q.WAITING_CAPACITY: (
        Source("vllm:num_requests_waiting_by_reason", {"reason": "capacity"}),
    ),
    Q.KV_CAPACITY: (
        Source(_CONFIG, label="kv_cache_size_tokens"),
        Source(_CONFIG, label="num_gpu_blocks", times="block_size"),
    ),
    Q.BLOCK_TOKENS: (Source(_CONFIG, label="block_size"),),
    Q.PREFIX_CACHING: (Source(_CONFIG, label="enable_prefix_caching"),),
    Q.FAILED: (Source("vllm:request_success", {"finished_reason": "error"}),),
    Q.REPLIES: (Source("http_requests", _GENERATION),),
    Q.BROKEN: (Source("http_requests", {**_GENERATION, "status": "5*"}),),
    Q.REFUSED: (Source("http_requests", {**_GENERATION, "status": "4*"}),),
    Q.REFUSED_QUEUE: (Source("vllm:admission_rejections"),),
    Q.HITS_HOST: (Source("vllm:prompt_tokens_cached_by_source", {"source": "host"}),),
    Q.HITS_DISK: (Source("vllm:prompt_tokens_cached_by_source", {"source": "disk"}),),
    Q.HITS_REMOTE: (Source("vllm:prompt_tokens_cached_by_source", {"source": "p2p"}),),
    Q.STORED: (Source("vllm:kv_offload_store_bytes"),),
}  # fmt: skip

_ERRORS = "stepwell_errors"

STEPWELL: Aliases = {
    **VLLM,
    **_named("stepwell_", {
        Q.KV_POOL_BYTES: "kv_pool_bytes",
        Q.KV_USED_BYTES: "kv_used_bytes",
        Q.KV_CACHED_BYTES: "kv_cached_bytes",
        Q.KV_FREE_BYTES: "kv_free_bytes",
        Q.KV_WASTE_BYTES: "kv_waste_bytes",
        Q.WEIGHTS_BYTES: "weights_bytes",
        Q.WORKSPACE_BYTES: "workspace_bytes",
        Q.OLDEST_RUNNING: "oldest_running_seconds",
        Q.LONGEST_SILENCE: "longest_silence_seconds",
        Q.STATS_AGE: "stats_age_seconds",
        Q.EVICTED_TOKENS: "kv_evicted_tokens",
        Q.RETURNED_TOKENS: "kv_returned_tokens",
        Q.SHARED_TEXT: "prompt_pieces_seen",
        Q.TEXT: "prompt_pieces",
        Q.CHUNK_RECOMPUTE: "chunk_recompute_seconds",
        Q.RESTORED_TOKENS: "restored_tokens",
        Q.RESTORE_SAVED: "restore_seconds_saved",
        Q.RESTORE_REGRET: "restore_regret_seconds",
        Q.STORED: "tier_stored_bytes",
    }),
    Q.KV_CAPACITY: (Source("stepwell_kv_tokens"),),
    Q.EXTERNAL_HITS: (Source("stepwell_restored_tokens"),),
    Q.REPLIES: (Source("stepwell_http_replies", {"route": "/v1/*"}, absent=0.0),),
    Q.BROKEN: (Source("stepwell_http_replies", {"route": "/v1/*", "status": "5*"}, absent=0.0),),
    Q.REFUSED: (Source("stepwell_http_replies", {"route": "/v1/*", "status": "4*"}, absent=0.0),),
    Q.REFUSED_CONTEXT: (Source(_ERRORS, {"code": "context_length_exceeded"}, absent=0.0),),
    Q.REFUSED_QUEUE: (Source(_ERRORS, {"code": "queue_full"}, absent=0.0),),
}  # fmt: skip

SGLANG: Aliases = {
    **_named("sglang:", {
        Q.RUNNING: "num_running_reqs",
        Q.WAITING: "num_queue_reqs",
        Q.KV_USAGE: ("full_token_usage", "token_usage"),
        Q.KV_CAPACITY: "max_total_num_tokens",
        Q.BLOCK_TOKENS: "page_size",
        Q.KV_USED_TOKENS: ("kv_used_tokens", "num_used_tokens"),
        Q.KV_CACHED_TOKENS: "kv_evictable_tokens",
        Q.KV_FREE_TOKENS: "kv_available_tokens",
        Q.HIT_RATE: "cache_hit_rate",
        Q.PREEMPTIONS: "num_retracted_requests",
        Q.PREFIX_QUERIES: "prompt_tokens",
        Q.PROMPT_TOKENS: "prompt_tokens",
        Q.GENERATION_TOKENS: "generation_tokens",
        Q.EVICTED_TOKENS: "evicted_tokens",
        Q.RESTORED_TOKENS: "load_back_tokens",
        Q.FINISHED: "num_requests",
        Q.TTFT: "time_to_first_token_seconds",
        Q.ITL: ("inter_token_latency_seconds", "time_per_output_token_seconds"),
        Q.E2E: "e2e_request_latency_seconds",
        Q.QUEUE_TIME: "queue_time_seconds",
        Q.LOAD_TIME: "load_back_duration_seconds",
    }),
    Q.PREFIX_HITS: (
        Source("sglang:cached_tokens", {"cache_source": "device"}),
        Source("sglang:cached_tokens"),
    ),
    Q.HITS_HOST: (Source("sglang:cached_tokens", {"cache_source": "host"}),),
    Q.HITS_DISK: (Source("sglang:cached_tokens", {"cache_source": "storage*"}),),
    Q.WEIGHTS_BYTES: (Source("sglang:weight_memory_usage_gb", scale=_GIB),),
    Q.KV_POOL_BYTES: (Source("sglang:kv_cache_memory_usage_gb", scale=_GIB),),
    Q.WORKSPACE_BYTES: (Source("sglang:graph_memory_usage_gb", scale=_GIB),),
}  # fmt: skip

TGI: Aliases = {
    **_named("tgi_", {
        Q.RUNNING: "batch_current_size",
        Q.WAITING: "queue_size",
        Q.KV_USED_TOKENS: "batch_current_max_tokens",
        Q.PROMPT_TOKENS: "request_input_length_sum",
        Q.GENERATION_TOKENS: "request_generated_tokens_sum",
        Q.FINISHED: "request_success",
        Q.REPLIES: "request_count",
        Q.ITL: "request_mean_time_per_token_duration",
        Q.E2E: "request_duration",
        Q.QUEUE_TIME: "request_queue_duration",
        Q.PROMPT_LENGTH: "request_input_length",
        Q.OUTPUT_LENGTH: "request_generated_tokens",
    }),
    Q.FAILED: (Source("tgi_request_failure", {"err": "generation"}, absent=0.0),),
    Q.REFUSED: (Source("tgi_request_failure", {"err": "validation"}, absent=0.0),),
    Q.REFUSED_QUEUE: (Source("tgi_request_failure", {"err": "overloaded"}, absent=0.0),),
    Q.PREFILL_TIME: (Source("tgi_batch_inference_duration", {"method": "prefill"}),),
    Q.DECODE_TIME: (Source("tgi_batch_inference_duration", {"method": "decode"}),),
}  # fmt: skip

LMCACHE: Aliases = _named("lmcache:", {
    Q.EXTERNAL_QUERIES: ("num_lookup_tokens", "num_requested_tokens"),
    Q.EXTERNAL_HITS: ("num_lookup_hits", "num_hit_tokens"),
    Q.RESTORED_TOKENS: "num_hit_tokens",
    Q.STORED: "num_stored_tokens",
    Q.LOAD_TIME: "time_to_retrieve",
})  # fmt: skip

_TABLES: Mapping[Engine, Aliases] = {
    Engine.STEPWELL: STEPWELL,
    Engine.VLLM_V0: VLLM,
    Engine.VLLM_V1: VLLM,
    Engine.SGLANG: SGLANG,
    Engine.TGI: TGI,
    Engine.LMCACHE: LMCACHE,
}
_COMMON: Aliases = {Q.START_TIME: (Source("process_start_time_seconds"),)}
_ONLY_V0 = ("vllm:num_requests_swapped", "vllm:cpu_cache_usage_perc")


def detect(page: Page) -> Engine | None:
    """Whose page this is; None: none that is known here."""
    if page.has_prefix("stepwell_"):
        return Engine.STEPWELL
    if page.has_prefix("vllm:"):
        return Engine.VLLM_V0 if any(name in page for name in _ONLY_V0) else Engine.VLLM_V1
    if page.has_prefix("sglang:"):
        return Engine.SGLANG
    if page.has_prefix("tgi_"):
        return Engine.TGI
    if page.has_prefix("lmcache"):
        return Engine.LMCACHE
    return None


def aliases(engine: Engine, page: Page) -> Aliases:
    """The table for a page of `engine`; LMCache's names beside another engine's count too."""
    table = {**_TABLES[engine], **_COMMON}
    return {**table, **LMCACHE} if page.has_prefix("lmcache:") else table


def prefixes(page: Page) -> list[str]:
    """What names on the page begin with, for the message about an unknown engine."""
    return sorted({_prefix(name) for name in page.samples} - {"python", "process"})


def first_present(sources: Iterable[Source], page: Page) -> Source | None:
    """The source to read: the first with samples, else the first whose name is there (its labels
    appear with the first event), else one that says what absence means."""
    candidates = list(sources)
    for source in candidates:
        rows = page.find(source.name, source.where)
        rows = rows or page.find(f"{source.name}_bucket", source.where)
        if any(
            labels.get(source.label, "None") != "None" or not source.label for labels, _ in rows
        ):
            return source
    for source in candidates:
        if source.name in page:
            return source
    return next((s for s in candidates if s.absent is not None), None)


def _prefix(name: str) -> str:
    return name.partition(":")[0] if ":" in name else name.partition("_")[0]
