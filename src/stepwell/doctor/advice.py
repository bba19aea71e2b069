"""What to change, in the words of each engine's own settings."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from stepwell.doctor.alias import Engine


class Lever(enum.Enum):
    """A thing that can be changed at every engine, under another name."""

    BIGGER_POOL = enum.auto()
    SMALLER_KV = enum.auto()
    PREFIX_CACHING = enum.auto()
    LOWER_TIER = enum.auto()
    CONTEXT_LIMIT = enum.auto()
    BATCH = enum.auto()
    PREFILL_BUDGET = enum.auto()
    BLOCK_SIZE = enum.auto()
    LOG = enum.auto()


_STEPWELL: Mapping[Lever, str] = {
    Lever.BIGGER_POOL: "a larger --pool, or --weights int8 to make room for it",
    Lever.SMALLER_KV: "--kv int8 (about twice the tokens in the same bytes)",
    Lever.PREFIX_CACHING: "cache.prefix_caching = true",
    Lever.LOWER_TIER: "--host-tier 4GiB, or --disk-tier FOLDER",
    Lever.CONTEXT_LIMIT: "--max-model-len",
    Lever.BATCH: "--max-sequences",
    Lever.PREFILL_BUDGET: "scheduler.max_step_tokens",
    Lever.BLOCK_SIZE: "a smaller cache.block_size",
    Lever.LOG: "the server's log",
}
_VLLM: Mapping[Lever, str] = {
    Lever.BIGGER_POOL: "a larger --gpu-memory-utilization or --kv-cache-memory-bytes "
    "(VLLM_CPU_KVCACHE_SPACE on a CPU), or quantized weights",
    Lever.SMALLER_KV: "--kv-cache-dtype fp8",
    Lever.PREFIX_CACHING: "--enable-prefix-caching",
    Lever.LOWER_TIER: "--kv-offloading-size GIB, or a KV connector",
    Lever.CONTEXT_LIMIT: "--max-model-len",
    Lever.BATCH: "--max-num-seqs",
    Lever.PREFILL_BUDGET: "--max-num-batched-tokens",
    Lever.BLOCK_SIZE: "a smaller --block-size",
    Lever.LOG: "the log of the EngineCore process",
}
_SGLANG: Mapping[Lever, str] = {
    Lever.BIGGER_POOL: "a larger --mem-fraction-static, or quantized weights",
    Lever.SMALLER_KV: "--kv-cache-dtype fp8_e5m2",
    Lever.PREFIX_CACHING: "no --disable-radix-cache",
    Lever.LOWER_TIER: "--enable-hierarchical-cache --hicache-ratio 2",
    Lever.CONTEXT_LIMIT: "--context-length",
    Lever.BATCH: "--max-running-requests",
    Lever.PREFILL_BUDGET: "--chunked-prefill-size",
    Lever.BLOCK_SIZE: "a smaller --page-size",
    Lever.LOG: "the scheduler's log",
}
_TGI: Mapping[Lever, str] = {
    Lever.BIGGER_POOL: "a larger --max-batch-total-tokens or --cuda-memory-fraction",
    Lever.SMALLER_KV: "--kv-cache-dtype fp8_e4m3fn",
    Lever.PREFIX_CACHING: "PREFIX_CACHING=1",
    Lever.LOWER_TIER: "an engine with KV offloading: TGI has none",
    Lever.CONTEXT_LIMIT: "--max-total-tokens and --max-input-tokens",
    Lever.BATCH: "--max-concurrent-requests",
    Lever.PREFILL_BUDGET: "--max-batch-prefill-tokens",
    Lever.BLOCK_SIZE: "a smaller block size",
    Lever.LOG: "the shard's log",
}
_LEVERS: Mapping[Engine, Mapping[Lever, str]] = {
    Engine.STEPWELL: _STEPWELL,
    Engine.VLLM_V0: _VLLM,
    Engine.VLLM_V1: _VLLM,
    Engine.SGLANG: _SGLANG,
    Engine.TGI: _TGI,
    Engine.LMCACHE: {**_VLLM, Lever.LOWER_TIER: "LMCACHE_MAX_LOCAL_CPU_SIZE"},
}


def setting(engine: Engine, lever: Lever) -> str:
    """What this engine calls it."""
    return _LEVERS[engine][lever]
