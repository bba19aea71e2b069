"""When it happened, from the functions of the traceback and the lines before."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepwell.doctor.oom.scan import Place
from stepwell.doctor.oom.words import Phase

_NEAR = 40
_TRACEBACK = "Traceback (most recent call last)"
# The first that matches decides: outer functions of a start are also on the way to inner ones.
_SIGNS = (
    (Phase.GRAPHS, r"capture_model|cuda_?graph_runner|torch\.cuda\.graph\(|capture_(?:begin|end)"
                   r"|[Cc]aptur\w* (?:the model for )?(?:cuda ?|CUDA )graph|Capture cuda graph"
                   r"|_capture_generation|_warmup_and_capture"),
    (Phase.WARMUP, r"_dummy_sampler_run|_dummy_pooler_run|warming up sampler|kernel_warmup"),
    (Phase.PROFILING, r"profile_run|determine_(?:available_memory|num_available_blocks)"
                      r"|profile_num_available|in warmup\b|[ :.]warmup\b"),
    (Phase.KV_CACHE, r"_allocate_kv_cache|allocate_kv_cache|initialize_kv_cache\b|init_memory_pool"
                     r"|_init_pools|_create_buffers|initialize_cache\b"),
    (Phase.LOADING, r"in load_(?:model|weights|single_module)|create_weights|from_pretrained"
                    r"|_load_state_dict|initialize_model|load_checkpoint|Error executing load_"
                    r"|weighs_to_device|Loading safetensors"),
    (Phase.SERVING, r"run_busy_loop|_process_engine_step|execute_model|event_loop_|forward_extend"
                    r"|forward_decode|forward_batch_generation|engine_step|in generate\b"
                    r"|POST /v1/|Avg prompt throughput|(?:Decode|Prefill) batch\."
                    r"|in sample_tokens|Error in model execution"),
    (Phase.KV_CACHE, r"_initialize_kv_caches"),
)  # fmt: skip
_COMPILED = tuple((phase, re.compile(pattern)) for phase, pattern in _SIGNS)


def phase_of(place: Place) -> Phase:
    """UNKNOWN where nothing near tells."""
    for text in (_traceback(place.before), place.line, _after(place)):
        for phase, pattern in _COMPILED:
            if pattern.search(text):
                return phase
    return Phase.UNKNOWN


def _traceback(before: Sequence[str]) -> str:
    """The lines from the last traceback's head on, else the nearest ones."""
    for index in range(len(before) - 1, -1, -1):
        if _TRACEBACK in before[index]:
            return "\n".join(before[index:])
    return "\n".join(before[-_NEAR:])


def _after(place: Place) -> str:
    """An error that wraps this one names what was being done."""
    return "\n".join(place.lines[1:8])
