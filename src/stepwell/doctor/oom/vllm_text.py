"""vLLM's own messages about memory: at its start, and when its engine process died."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import lack_steps
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.words import Explanation, Holder, Phase, Step, gib

_N = r"(-?\d+(?:\.\d+)?)"
_LENGTH_BYTES = re.compile(
    rf"To serve at least one request with the models?'s? max seq len \((\d+)\), \({_N} GiB KV "
    rf"cache is needed, which is larger than the available KV cache memory \({_N} GiB\)\."
    r"(?:\s*Based on the available memory, the estimated maximum model length is (\d+)\.)?"
)
_LENGTH_TOKENS = re.compile(
    r"The model's max seq len \((\d+)\) is larger than the maximum number of tokens that can be "
    r"stored in KV cache \((\d+)\)"
)
_NO_BLOCKS = re.compile(r"No available memory for the cache blocks\.")
_START_FREE = re.compile(
    rf"(?:Free|Available) memory on (?:device|node) ?(\S*) ?\({_N}/{_N} GiB\) on startup is less "
    rf"than desired (GPU|CPU) memory utilization \({_N}, {_N} GiB\)"
)
_PROFILING = re.compile(
    rf"Error in memory profiling\. Initial free memory {_N}(?: GiB)?, current free memory {_N}"
)
_WARMUP = re.compile(
    r"CUDA out of memory occurred when warming up (sampler|pooler) with\s+(\d+) dummy requests"
)
_DIED = re.compile(
    r"EngineCore encountered an issue|Engine core initialization failed"
    r"|(?:Engine core|Worker) proc \S+ died unexpectedly|EngineCore failed to start"
)


def _length_bytes(sight: Sighting) -> Explanation:
    length, need, have = int(sight.match[1]), gib(sight.match[2]), gib(sight.match[3])
    per_token = need / length
    longest = int(sight.match[4]) if sight.match[4] else int(have / per_token)
    steps = [
        Step(f"Set --max-model-len {longest}, or less." if longest >= 1 else
             "No length fits: more memory for the pool is needed first.",
             f"KV of one request then fits the {format_bytes(have)} that there are"),
        *_more_pool(sight, lack=need - have),
        Step("Keep KV in 8 bits: --kv-cache-dtype fp8.",
             f"one request of {length:,} tokens then needs {format_bytes(need / 2)}"
             + ("" if need / 2 > have else ", which fits")),
        Step("Split the model over more devices (--tensor-parallel-size 2).",
             "weights and KV of each device halve (KV only while there are heads to split)"),
    ]  # fmt: skip
    return Explanation(
        kind="vllm_length",
        source="vLLM, start",
        title="one request of the longest length exceeds the KV pool",
        why=f"KV for --max-model-len {length:,} takes {format_bytes(need)} "
        f"({format_bytes(per_token)} a token on average), and {format_bytes(have)} are left for "
        "the pool beside weights, activations and graphs. Nothing was allocated in vain: the "
        "engine refuses to start.",
        steps=tuple(steps),
        text=sight.text,
        phase=Phase.KV_CACHE,
        requested=need,
        holders=(*_told(sight), Holder("left for the KV pool", have)),
        evidence={
            "max_model_len": float(length),
            "needed_bytes": float(need),
            "available_bytes": float(have),
            "bytes_per_token": per_token,
            "longest_that_fits": float(longest),
        },
    )


def _length_tokens(sight: Sighting) -> Explanation:
    length, tokens = int(sight.match[1]), int(sight.match[2])
    have = sight.facts.sizes.get("kv")
    lack = None if have is None or not tokens else int(have / tokens * (length - tokens))
    return Explanation(
        kind="vllm_length",
        source="vLLM, start (before 0.8)",
        title="one request of the longest length exceeds the KV pool",
        why=f"The pool holds {tokens:,} tokens and --max-model-len is {length:,}. The profiling "
        "run computes the longest input that a step may have: a smaller step leaves a larger pool.",
        steps=(
            Step(f"Set --max-model-len {tokens}, or less.", "one request then fits the pool"),
            *_more_pool(sight, lack=lack),
            Step("Lower --max-num-batched-tokens, or turn chunked prefill on.",
                 "less is kept for activations; the difference goes to the pool"),
        ),
        text=sight.text,
        phase=Phase.KV_CACHE,
        holders=_told(sight),
        evidence={"max_model_len": float(length), "pool_tokens": float(tokens)},
    )  # fmt: skip


def _no_blocks(sight: Sighting) -> Explanation:
    return Explanation(
        kind="vllm_no_blocks",
        source="vLLM, start",
        title="nothing is left for the KV pool",
        why="Weights, the activations of the profiling run and what other processes hold reach the "
        "share of the device that vLLM may use. The message advises a larger share, which helps "
        "only where memory beyond the share is free.",
        steps=(
            Step("Compare weights with the device first: stepwell plan MODEL --device NAME.",
                 "says whether any setting can help"),
            *_more_pool(sight, lack=None),
            Step("Lower --max-num-batched-tokens, --max-num-seqs and --max-model-len; for "
                 "multimodal models --limit-mm-per-prompt.",
                 "the profiling run computes the largest allowed batch: less is kept for it"),
            Step("Use fewer bits for weights, or --tensor-parallel-size 2.",
                 "a half or a quarter of the weights' bytes on the device"),
        ),
        text=sight.text,
        phase=Phase.KV_CACHE,
        holders=_told(sight),
    )  # fmt: skip


def _start_free(sight: Sighting) -> Explanation:
    device, free, total, kind, share, wanted = sight.match.groups()
    held = gib(total) - gib(free)
    most = int((float(free) / float(total)) * 100) / 100
    what = "GPU" if kind == "GPU" else "memory node"
    return Explanation(
        kind="vllm_start_free",
        source="vLLM, start",
        title=f"others hold {format_bytes(held)} of the {what} before vLLM begins",
        why=f"The share {share} of {total} GiB is {wanted} GiB, and only {free} GiB are free. vLLM "
        "has allocated nothing yet: this is other processes (an engine that is still stopping, a "
        "second one, a desktop), or the CUDA contexts of its own workers.",
        steps=(
            Step("Stop the others (nvidia-smi names them), or wait until a stopped engine has "
                 "given its memory back.", f"frees up to {format_bytes(held)}"),
            Step(f"Set --gpu-memory-utilization {most:g} or less.",
                 f"asks for at most {format_bytes(most * gib(total))}; the KV pool shrinks by "
                 f"{format_bytes((float(share) - most) * gib(total))}"),
        ),
        text=sight.text,
        phase=Phase.PROFILING,
        device=device or "",
        requested=gib(wanted),
        capacity=gib(total),
        free=gib(free),
        holders=(Holder("other processes and contexts", held), Holder("free", gib(free))),
        evidence={"utilization": float(share), "most_utilization": most},
    )  # fmt: skip


def _profiling(sight: Sighting) -> Explanation:
    first, then = gib(sight.match[1]), gib(sight.match[2])
    return Explanation(
        kind="vllm_profiling",
        source="vLLM, start",
        title="memory became free while vLLM measured its own use",
        why="vLLM takes the difference of free memory before and after its profiling run for its "
        f"own use. It rose from {format_bytes(first)} to {format_bytes(then)}: another process "
        "gave memory back meanwhile, so nothing can be said and the start is broken off. No "
        "memory is lacking.",
        steps=(
            Step("Start it again now that the other process has ended; start engines that share a "
                 "device one after the other.", "the start succeeds when use is steady"),
            Step("Give the pool's size itself (--kv-cache-memory-bytes) where a device is shared.",
                 "nothing is measured, so nothing can disturb it"),
            Step("Use a newer vLLM (on XPU and ROCm equal values were refused too).",
                 "equal or nearly equal values are accepted"),
        ),
        text=sight.text,
        phase=Phase.PROFILING,
        free=then,
        holders=(Holder("given back by others meanwhile", max(0, then - first)),
                 Holder("free", then)),
        evidence={"free_before_bytes": float(first), "free_after_bytes": float(then)},
    )  # fmt: skip


def _warmup(sight: Sighting) -> Explanation:
    return Explanation(
        kind="vllm_warmup",
        source="vLLM, start",
        title=f"the {sight.match[1]}'s warm-up with {sight.match[2]} requests had no room",
        why=f"After the KV pool was allocated, {sight.match[1]} buffers for {sight.match[2]} "
        "sequences (each as wide as the vocabulary) did not fit beside it.",
        steps=(
            Step(f"Lower --max-num-seqs from {sight.match[2]}, for instance to "
                 f"{max(1, int(sight.match[2]) // 4)}.",
                 "the warm-up's buffers shrink in proportion"),
            *lack_steps("vllm", Phase.KV_CACHE, sight.facts)[:1],
        ),
        text=sight.text,
        phase=Phase.WARMUP,
        holders=_told(sight),
        evidence={"dummy_requests": float(sight.match[2])},
    )  # fmt: skip


def _died(sight: Sighting) -> Explanation | None:
    """Only where the log also speaks of memory: an engine dies of many things."""
    near = "\n".join((*sight.place.before, *sight.place.lines))
    if not re.search(r"out of memory|OutOfMemory|Killed|\boom\b|signal 9|exit code: -9", near):
        return None
    return Explanation(
        kind="vllm_died",
        source="vLLM",
        title="the engine process died; the cause stands further up",
        why="This line is a consequence. Lines near it speak of memory, but none of them is a "
        "message with numbers.",
        steps=(
            Step("Give the log from the first error on, worker processes included.",
                 "the cause is in another process's lines"),
            Step("If no process wrote an error, look for the kernel: dmesg -T | grep -i kill.",
                 "a killed process writes nothing"),
        ),
        text=sight.text,
        phase=sight.phase,
        holders=(Holder("everything", None, "the text has no numbers"),),
    )  # fmt: skip


def _more_pool(sight: Sighting, *, lack: int | None) -> tuple[Step, ...]:
    """Raise the share: memory beyond it is unused, if no other process has it."""
    share = sight.facts.settings.get("gpu_memory_utilization")
    if share is not None and share >= 0.95:
        return ()
    now = f" (now {share:g})" if share is not None else " (0.9 by default, 0.92 since 0.20)"
    missing = f"; {format_bytes(lack)} are missing" if lack is not None else ""
    return (
        Step(f"Raise --gpu-memory-utilization{now}, up to 0.95 where the device is not shared.",
             f"each 0.01 adds a hundredth of the device to the pool{missing}. Above that, graph "
             "capture or serving runs out instead."),
    )  # fmt: skip


def _told(sight: Sighting) -> tuple[Holder, ...]:
    """What the log says of the start; weights unknown where it does not."""
    names = {"weights": "weights", "activations": "activations (profiled)",
             "outside torch": "outside PyTorch", "graphs": "CUDA graphs",
             "kv": "left for the KV pool"}  # fmt: skip
    sizes = sight.facts.sizes
    shown = tuple(Holder(text, sizes[part]) for part, text in names.items() if part in sizes)
    return shown or (Holder("weights, activations, graphs", None, "the text does not say"),)


READERS = (
    Reader("vllm_length", "To serve at least one request with the model", _LENGTH_BYTES,
           _length_bytes),
    Reader("vllm_length", "The model's max seq len", _LENGTH_TOKENS, _length_tokens, span=4),
    Reader("vllm_no_blocks", r"No available memory for the cache blocks\.", _NO_BLOCKS, _no_blocks),
    Reader("vllm_start_free", r"(?:Free|Available) memory on (?:device|node)", _START_FREE,
           _start_free),
    Reader("vllm_profiling", "Error in memory profiling", _PROFILING, _profiling),
    Reader("vllm_warmup", "out of memory occurred when warming up", _WARMUP, _warmup,
           Weight.EVENT),
    Reader("vllm_died", "died unexpectedly|EngineCore|Engine core", _DIED, _died,
           Weight.CONSEQUENCE, span=1),
)  # fmt: skip
