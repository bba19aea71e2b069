"""Settings of each engine that move memory, at each phase. Names as in their command lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.facts import LogFacts
from stepwell.doctor.oom.words import Phase, Step


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that were missing, and of the whole device; 0: not known."""

    lack: int = 0
    capacity: int = 0

    @property
    def told(self) -> str:
        """What has to be found."""
        return f"{format_bytes(self.lack)} were missing" if self.lack else "how much is not known"

    def lowered(self, share: float) -> str:
        """A share that leaves what was missing and a hundredth more; nothing where unknown."""
        if not self.capacity:
            return "lower it by 0.02 to 0.05"
        target = math.floor((share - self.lack / self.capacity - 0.01) * 100) / 100
        return f"from {share:g} to {max(0.05, target):g}"


Make = Callable[[LogFacts, Room], tuple[Step, ...]]


def _share_steps(option: str, setting: str, usual: float) -> Make:
    """Lower the pool's share: what is beside the pool needs more room."""

    def make(facts: LogFacts, room: Room) -> tuple[Step, ...]:
        share = facts.settings.get(setting)
        told = room.lowered(share if share is not None else usual)
        assumed = "" if share is not None else f" (if it is the default of about {usual:g})"
        return (
            Step(
                f"Lower {option}, {told}{assumed}: the pool must leave more room beside it.",
                f"{room.told}; each 0.01 is "
                + (format_bytes(room.capacity / 100) if room.capacity else "a hundredth of it")
                + " taken from the KV pool. Raising it makes this worse.",
            ),
        )

    return make


def _fixed(*pairs: tuple[str, str]) -> Make:
    steps = tuple(Step(change, effect) for change, effect in pairs)
    return lambda facts, room: steps


def _join(*makes: Make) -> Make:
    return lambda facts, room: tuple(step for make in makes for step in make(facts, room))


_SHARD = ("Split the model over more devices (--tensor-parallel-size 2; SGLang --tp 2).",
          "weights and KV of each device halve")  # fmt: skip
_FEWER_BITS = ("Load weights of fewer bits (an FP8, AWQ or GPTQ checkpoint).",
               "weights take a half (8 bits) or a quarter (4 bits) of 16-bit ones")  # fmt: skip
_VLLM_SHARE = _share_steps("--gpu-memory-utilization", "gpu_memory_utilization", 0.9)
_SGLANG_SHARE = _share_steps("--mem-fraction-static", "mem_fraction_static", 0.88)
_VLLM_BATCH = _fixed(
    ("Lower --max-num-batched-tokens (and --max-num-seqs).",
     "activations of a step shrink in proportion; long prompts take more steps"),
)  # fmt: skip
_VLLM_GRAPHS = _fixed(
    ("Capture fewer graphs: a lower --max-num-seqs or --cudagraph-capture-sizes.",
     "graph memory shrinks with the number and size of the captured batches"),
    ("As a test --enforce-eager: no graphs at all.",
     "frees all graph memory; decode of small batches slows down"),
)  # fmt: skip
_VLLM: Mapping[Phase, Make] = {
    Phase.LOADING: _fixed(
        ("The weights do not fit: --gpu-memory-utilization changes nothing here, it only sizes "
         "the KV pool afterwards.", "saves looking there"),
        _SHARD, _FEWER_BITS,
    ),
    Phase.PROFILING: _join(_VLLM_BATCH, _fixed(
        ("Lower --max-model-len, and for multimodal models --limit-mm-per-prompt.",
         "the profiling run computes the largest allowed input"), _SHARD)),
    Phase.KV_CACHE: _join(_VLLM_SHARE, _fixed(
        ("See whether another process started in the meantime (nvidia-smi).",
         "the pool was sized from what was free a moment before"))),
    Phase.WARMUP: _join(_fixed(
        ("Lower --max-num-seqs.", "logits of the warm-up are max-num-seqs times vocabulary")),
        _VLLM_SHARE),
    Phase.GRAPHS: _join(_VLLM_SHARE, _VLLM_GRAPHS),
    Phase.SERVING: _join(_VLLM_SHARE, _VLLM_BATCH, _fixed(
        ("Restart the engine: it died of this, and all its requests with it.",
         "a request that asks for prompt logprobs or many images can be refused before it "
         "does this again"))),
    Phase.UNKNOWN: _join(_fixed(
        ("Find out when it happened: during the start (before the server took requests) or while "
         "serving; the lines above the message tell.",
         "at the start while loading: fewer bits or more devices; in profiling: a smaller batch; "
         "later: a lower --gpu-memory-utilization")), _VLLM_BATCH),
}  # fmt: skip
_SGLANG: Mapping[Phase, Make] = {
    Phase.LOADING: _fixed(
        ("The weights do not fit: --mem-fraction-static changes nothing here.",
         "saves looking there"), _SHARD, _FEWER_BITS),
    Phase.GRAPHS: _join(_SGLANG_SHARE, _fixed(
        ("Lower --cuda-graph-max-bs.", "graph memory shrinks with the largest captured batch"),
        ("As a test --disable-cuda-graph.", "frees all graph memory; decode slows down"))),
    Phase.SERVING: _join(_SGLANG_SHARE, _fixed(
        ("In prefill: lower --chunked-prefill-size (8192, 4096, 2048).",
         "activations of a step shrink in proportion"),
        ("In decode: lower --max-running-requests.", "fewer sequences at once"),
        ("For input logprobs set logprob_start_len.",
         "logits are kept only for the tokens asked about"))),
    Phase.UNKNOWN: _fixed(
        ("Find out when it happened: at the start raise --mem-fraction-static if the message is "
         "«Not enough memory», lower it for CUDA's out of memory; while serving lower it.",
         "the two need opposite changes"),
        ("Lower --chunked-prefill-size and --cuda-graph-max-bs.", "smaller buffers of a step")),
}  # fmt: skip
_ANY: Mapping[Phase, Make] = {
    Phase.LOADING: _fixed(
        ("Load the weights in their own precision (dtype='auto') or in fewer bits.",
         "float32 to 16 bits halves them, 8 and 4 bits halve again"),
        ("Spread them: device_map='auto', or more devices.", "each holds its part"),
    ),
    Phase.UNKNOWN: _fixed(
        ("Use a smaller batch or shorter inputs.",
         "activations and KV shrink in proportion to both"),
        ("For inference run under torch.inference_mode(), and keep no outputs on the device.",
         "without it every activation is kept for a backward pass"),
        ("Use fewer bits for weights, or for the KV cache.", "a half or a quarter of their bytes"),
    ),
}  # fmt: skip
_STEPWELL: Mapping[Phase, Make] = {
    Phase.UNKNOWN: _fixed(
        ("Set cache.pool lower (--pool).", "bytes go from the KV pool to everything else"),
        ("Lower scheduler.max_step_tokens and scheduler.max_sequences.",
         "step buffers shrink in proportion"),
        ("Keep weights or KV in fewer bits (--weights int8, --kv int8).", "half their bytes"),
    ),
}  # fmt: skip
_TGI: Mapping[Phase, Make] = {
    Phase.LOADING: _fixed(
        ("Shard the model (--num-shard 2) or quantize it (--quantize).",
         "half the weights on each device, or fewer bits")),
    Phase.UNKNOWN: _fixed(
        ("Lower --max-batch-prefill-tokens (it must stay above --max-input-tokens).",
         "activations of a prefill shrink in proportion"),
        ("Lower --max-batch-total-tokens or --cuda-memory-fraction.", "a smaller KV pool"),
        ("Shard the model (--num-shard 2) or quantize it (--quantize).",
         "half the weights on each device, or fewer bits")),
}  # fmt: skip
_TRTLLM: Mapping[Phase, Make] = {
    Phase.UNKNOWN: _fixed(
        ("Lower kv_cache_config.free_gpu_memory_fraction (0.9 of what is free by default).",
         "leaves room for what is allocated later: logits, workspaces, NCCL"),
        ("Lower max_num_tokens and max_batch_size; for a built engine build it again.",
         "execution contexts and buffers are sized for the largest batch"),
        ("Do not gather context logits.", "logits of a prompt are tokens times vocabulary")),
}  # fmt: skip
_GGML: Mapping[Phase, Make] = {
    Phase.UNKNOWN: _fixed(
        ("Offload fewer layers (-ngl), or the experts of a mixture to the CPU (--cpu-moe).",
         "each layer's weights move to host memory"),
        ("Lower the context (-c) or keep KV in 8 bits (-ctk q8_0 -ctv q8_0).",
         "KV shrinks in proportion; 8 bits halve it"),
        ("Lower -ub, and use flash attention (-fa on).", "smaller compute buffers")),
}  # fmt: skip

ENGINE_STEPS: Mapping[str, Mapping[Phase, Make]] = {
    "vllm": _VLLM,
    "sglang": _SGLANG,
    "tgi": _TGI,
    "tensorrt-llm": _TRTLLM,
    "llama.cpp": _GGML,
    "ollama": _GGML,
    "stepwell": _STEPWELL,
    "": _ANY,
}
