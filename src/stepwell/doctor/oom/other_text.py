"""TGI, TensorRT-LLM, JAX, LMCache."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import lack_steps
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.words import SIZE, Explanation, Holder, Phase, Step, parse_size

_TGI = re.compile(
    r"Not enough memory to handle (?:(?P<total>\d+) total tokens with )?(?P<prefill>\d+) prefill "
    r"tokens"
)
_TRT = re.compile(r"\[TensorRT-LLM\]\[ERROR\] CUDA runtime error in [^\n]*?: out of memory")
_JAX = re.compile(
    r"RESOURCE_EXHAUSTED: (?:Out of memory (?:while trying to allocate|allocating)|Failed to "
    rf"allocate request for) {SIZE}"
)
_LMCACHE = re.compile(
    r"Failed to allocate memory for tensor\([^\n]*?because no memory is available"
)


def _tgi(sight: Sighting) -> Explanation:
    total, prefill = sight.group("total"), int(sight.group("prefill"))
    what = "warm-up" if sight.phase is not Phase.SERVING else "prefill"
    steps = [
        Step(f"Lower --max-batch-prefill-tokens below {prefill} (it must stay above "
             "--max-input-tokens).", "activations of the warm-up shrink in proportion"),
        *lack_steps("tgi", Phase.LOADING, sight.facts),
    ]  # fmt: skip
    if total:
        steps.insert(0, Step(f"Lower --max-batch-total-tokens below {total}.",
                             "a smaller KV pool"))  # fmt: skip
    if prefill <= 1024:
        other = Step(
            "So few tokens do not fill a device: look further up for another error (a kernel that "
            "failed), and at who else is on the device.",
            "the limit is not what failed",
        )
        steps.insert(0, other)
    return Explanation(
        kind="tgi_warmup",
        source="TGI",
        title=f"the {what} of {prefill:,} prefill tokens had no room beside the weights",
        why="TGI runs the largest prefill once at the start and allocates the KV pool from what is "
        "left. Weights and that prefill already exceeded the device.",
        steps=tuple(steps),
        text=sight.text,
        phase=Phase.PROFILING,
        holders=(Holder("weights and the prefill's activations", None, "the text does not say"),),
        evidence={"prefill_tokens": float(prefill)}
        | ({"total_tokens": float(total)} if total else {}),
    )


def _trt(sight: Sighting) -> Explanation:
    serving = "forwardAsync" in "\n".join((*sight.place.before[-3:], sight.place.line))
    return Explanation(
        kind="trtllm_alloc",
        source="TensorRT-LLM",
        title="TensorRT-LLM's runtime found no device memory",
        why="The engine's weights and execution context were loaded, then a buffer was asked of "
        "CUDA directly. The KV pool had taken its share (0.9 of what was free) before."
        if serving
        else "A buffer, the KV pool or the engine itself did not fit at the start; buffers are "
        "sized for the largest batch that the engine was built for.",
        steps=lack_steps("tensorrt-llm", Phase.UNKNOWN, sight.facts),
        text=sight.text,
        phase=Phase.SERVING if serving else Phase.KV_CACHE,
        holders=(Holder("engine, context and KV pool", None, "the text does not say"),),
    )


def _jax(sight: Sighting) -> Explanation:
    asked = parse_size(sight.match[1])
    return Explanation(
        kind="jax_exhausted",
        source="JAX (XLA)",
        title=f"XLA could not allocate {format_bytes(asked)}",
        why="JAX takes three quarters of the device at its first use and allocates inside that; "
        "the rest stays unused unless it is told otherwise.",
        steps=(
            Step("Raise XLA_PYTHON_CLIENT_MEM_FRACTION (0.75 by default) if nothing else uses the "
                 "device.", "up to a fifth of the device more"),
            Step("Stop other processes: with XLA_PYTHON_CLIENT_PREALLOCATE=false both can live.",
                 "takes memory as needed, at the price of fragmentation"),
            Step("Smaller batch or length; donate buffers (donate_argnums); rematerialize.",
                 f"{format_bytes(asked)} less"),
        ),
        text=sight.text,
        phase=sight.phase,
        requested=asked,
        holders=(Holder("XLA's pool", None, "the report after the message lists buffers"),),
    )  # fmt: skip


def _lmcache(sight: Sighting) -> Explanation:
    return Explanation(
        kind="lmcache_full",
        source="LMCache",
        title="LMCache's host pool is full; chunks are not stored",
        why="The pinned host pool has no free piece and nothing could be evicted at once. Serving "
        "goes on; these chunks will be computed again.",
        steps=(
            Step("Raise max_local_cpu_size (LMCACHE_MAX_LOCAL_CPU_SIZE, GiB).", "a larger pool"),
            Step("Update LMCache: pieces that are never given back were errors.",
                 "the pool drains"),
        ),
        text=sight.text,
        phase=Phase.SERVING,
        device="host memory",
        holders=(Holder("LMCache's host pool", None, "the text does not say its size"),),
    )  # fmt: skip


READERS = (
    Reader("tgi_warmup", "Not enough memory to handle", _TGI, _tgi, span=3),
    Reader("trtllm_alloc", r"\[TensorRT-LLM\]\[ERROR\] CUDA runtime error", _TRT, _trt, span=3),
    Reader("jax_exhausted", "RESOURCE_EXHAUSTED", _JAX, _jax, span=3),
    Reader("lmcache_full", "Failed to allocate memory for tensor", _LMCACHE, _lmcache,
           Weight.EVENT, span=3),
)  # fmt: skip
