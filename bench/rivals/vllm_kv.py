"""What vLLM on a CPU really allocates for one sequence's KV: `vllm_kv.py TOKENS BLOCK FOLDER...`

For each folder with a config.json (weights are made up), one JSON line: the pool's blocks and the
bytes of its tensors, and the most blocks that a sequence of TOKENS tokens held while decoding, its
prompt computed in one step. Runs in vLLM's own environment and needs nothing of Stepwell.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from typing import Any

_OUTPUT = 8  # of the tokens, decoded one by one

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def measure(folder: str, tokens: int, block: int) -> dict[str, Any]:
    """One model."""
    import vllm

    begun = time.perf_counter()
    llm = vllm.LLM(
        folder,
        dtype="bfloat16",
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=2048,
        max_num_batched_tokens=2048,
        max_num_seqs=4,
        block_size=block,
    )
    core = llm.llm_engine.engine_core.engine_core
    manager = core.scheduler.kv_cache_manager
    config = core.scheduler.kv_cache_config
    free = manager.block_pool.get_num_free_blocks
    before, held = free(), []
    llm.llm_engine.add_request(
        "0",
        vllm.TokensPrompt(prompt_token_ids=[5 + i % 1000 for i in range(tokens - _OUTPUT)]),
        vllm.SamplingParams(
            temperature=0.0, max_tokens=_OUTPUT + 1, ignore_eos=True, detokenize=False
        ),
    )
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()
        held.append(before - free())
    runner = core.model_executor.driver_worker.worker.model_runner
    return {
        "engine": f"vLLM {vllm.__version__}",
        "blocks": config.num_blocks,
        "pool_bytes": _pool_bytes(runner.kv_caches),
        "groups": [
            {"layers": len(group.layer_names), "spec": type(group.kv_cache_spec).__name__,
             "block_size": group.kv_cache_spec.block_size,
             "page_bytes": group.kv_cache_spec.page_size_bytes}
            for group in config.kv_cache_groups
        ],
        "blocks_held": held,
        "seconds": round(time.perf_counter() - begun, 1),
    }  # fmt: skip


def _pool_bytes(caches: list[Any]) -> int:
    """Of the tensors that were allocated; layers of several groups share theirs."""
    found: dict[int, int] = {}
    for cache in caches:
        for tensor in cache if isinstance(cache, list | tuple) else [cache]:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def main() -> None:
    """One line for each folder."""
    tokens, block = int(sys.argv[1]), int(sys.argv[2])
    for folder in sys.argv[3:]:
        try:
            found = measure(folder, tokens, block)
        except Exception as error:  # one that vLLM does not serve; others still may be
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), flush=True)
        gc.collect()


if __name__ == "__main__":
    main()
