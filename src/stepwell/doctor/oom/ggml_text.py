"""llama.cpp and what is built on it (ollama, LM Studio): a buffer that could not be allocated."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.words import SIZE, Explanation, Holder, Phase, Step, mib, parse_size

_ALLOC = re.compile(
    r"allocating (\d+(?:\.\d+)?) MiB on device (\d+): \w+ failed: (?:out of memory|OOM)"
)
_BUFFER = re.compile(r"alloc_buffer: failed to allocate buffer of size (\d+)")
_RUNNER = re.compile(
    r"llama runner process has terminated: (?:CUDA error|cudaMalloc failed|error[^\n]*)[^\n]*"
)
_SYSTEM = re.compile(rf"model requires more system memory \({SIZE}\) than is available \({SIZE}\)")
_KINDS = (
    ("compute", r"compute (?:pp |tg )?buffers?|gallocr|graph_reserve"),
    ("KV cache", r"kv cache|kv_cache|self-attention cache"),
    ("model", r"unable to allocate|load_tensors|loading model|alloc_tensor_range"),
)
_COMPUTE_STEPS = (
    Step("Lower -ub (512, 256): the micro-batch sizes the compute buffer.",
         "the buffer shrinks in proportion; prompts are read more slowly"),
    Step("Turn flash attention on (-fa on).",
         "no scores of micro-batch times context: the buffer no longer grows with the context"),
    Step("With several GPUs build without, or turn off, pipeline parallelism (-b equal to -ub).",
         "a quarter of the compute buffers (n_copies=4)"),
    Step("Lower the context (-c).", "what is left of the buffer shrinks with it"),
)  # fmt: skip
_KV_STEPS = (
    Step("Set the context (-c, OLLAMA_CONTEXT_LENGTH): without it the model's whole training "
         "length is allocated at once.", "KV shrinks in proportion to the context"),
    Step("Keep KV in 8 bits (-ctk q8_0 -ctv q8_0 -fa on).", "half the KV"),
    Step("Leave KV in host memory (--no-kv-offload), or start fewer slots (--parallel).",
         "frees the device; decode slows down"),
)  # fmt: skip
_MODEL_STEPS = (
    Step("Offload fewer layers (-ngl), or the experts of a mixture to the CPU (--cpu-moe).",
         "each layer's weights move to host memory"),
    Step("Use a file of fewer bits (Q4_K_M instead of Q8_0).", "about half the weights"),
    Step("Split over more devices (--tensor-split).", "each holds its part"),
)  # fmt: skip
_UNKNOWN_STEPS = (*_MODEL_STEPS[:1], *_KV_STEPS[:1], *_COMPUTE_STEPS[:1])
_STEPS = {"compute": _COMPUTE_STEPS, "KV cache": _KV_STEPS, "model": _MODEL_STEPS}


def _explain(sight: Sighting) -> Explanation:
    on_device = sight.match.re is _ALLOC
    asked = mib(sight.match[1]) if on_device else int(sight.match[1])
    kind = _kind(sight)
    told = f"the {kind} buffer" if kind else "a buffer"
    device = f"device {sight.match[2]}" if on_device else "host memory"
    return Explanation(
        kind=f"ggml_{kind.split()[0].lower()}" if kind else "ggml_buffer",
        source="llama.cpp (ggml)",
        title=f"{told} of {format_bytes(asked)} does not fit into {device}",
        why=_why(kind, asked),
        steps=_STEPS.get(kind, _UNKNOWN_STEPS),
        text=sight.text,
        phase=Phase.LOADING if kind == "model" else Phase.KV_CACHE,
        device=device,
        requested=asked,
        holders=_held(sight, on_device=on_device),
        evidence={"buffer": kind or "not named"},
    )


def _kind(sight: Sighting) -> str:
    """Which buffer: the lines that follow say it, the nearest first."""
    for line in (sight.place.line, *sight.place.lines[1:8]):
        for kind, pattern in _KINDS:
            if re.search(pattern, line, re.IGNORECASE):
                return kind
    return ""


def _why(kind: str, asked: int) -> str:
    size = format_bytes(asked)
    match kind:
        case "compute":
            return (
                f"Weights and KV were placed; the scratch memory of a step, {size} in one piece, "
                "was not. It grows with the micro-batch and, without flash attention, with micro-"
                "batch times context."
            )
        case "KV cache":
            return (
                f"KV for the whole context is allocated at the start, in one piece: {size}. Where "
                "no context is given it is the model's training length."
            )
        case "model":
            return f"The part of the weights meant for this device, {size}, exceeds what is free."
    return f"{size} in one piece were refused; the text does not say for what."


def _held(sight: Sighting, *, on_device: bool) -> tuple[Holder, ...]:
    if not on_device:
        return (Holder("host memory", None, "the text does not say"),)
    held = [
        Holder(
            name,
            sight.facts.buffer(kind) or None,
            "" if sight.facts.buffer(kind) else "not in the text",
        )
        for kind, name in (("model", "weights"), ("kv", "KV"), ("compute", "compute buffers"))
    ]
    return (*held, Holder("other processes", None, "the text does not say"))


def _runner(sight: Sighting) -> Explanation | None:
    if "memory" not in sight.text:
        return None
    return Explanation(
        kind="ollama_runner",
        source="ollama",
        title="ollama's runner ran out of device memory",
        why="ollama estimated that the model fits and its runner found that it does not: the "
        "estimate leaves out a part of the compute buffers, or another process took memory.",
        steps=(
            Step("Lower num_ctx (or OLLAMA_CONTEXT_LENGTH) and OLLAMA_NUM_PARALLEL.",
                 "KV is context times parallel requests"),
            Step("Lower num_gpu, or set OLLAMA_GPU_OVERHEAD to some hundred MiB.",
                 "fewer layers on the device; the estimate keeps a margin"),
            Step("Stop other processes and models (ollama ps, ollama stop).",
                 "frees what they hold"),
        ),
        text=sight.text,
        phase=Phase.LOADING,
        holders=(Holder("weights, KV, compute buffers", None, "see the runner's lines above"),),
    )  # fmt: skip


def _system(sight: Sighting) -> Explanation:
    need, have = map(parse_size, sight.match.groups())
    lack = need - have
    return Explanation(
        kind="ollama_system",
        source="ollama",
        title=f"{format_bytes(lack)} of host memory are missing for the model",
        why=f"What does not fit on a GPU goes to host memory: {format_bytes(need)}, and "
        f"{format_bytes(have)} are available (swap counted, other programs not). Nothing was "
        "loaded.",
        steps=(
            Step("Use a smaller file of the model (fewer bits) or a smaller model.",
                 f"at least {lack / need:.0%} less is needed"),
            Step("Lower num_ctx.", "KV is part of the sum"),
            Step("Close other programs, or stop other models (ollama ps).",
                 f"{format_bytes(lack)} have to become free"),
        ),
        text=sight.text,
        phase=Phase.LOADING,
        device="host memory",
        requested=need,
        free=have,
        holders=(Holder("other programs", None, "the text does not say"), Holder("free", have)),
        evidence={"lack_bytes": float(lack)},
    )  # fmt: skip


READERS = (
    Reader("ggml_buffer", r"allocating \S+ MiB on device", _ALLOC, _explain, span=2),
    Reader("ggml_buffer", "failed to allocate buffer of size", _BUFFER, _explain, span=1),
    Reader("ollama_system", "model requires more system memory", _SYSTEM, _system, span=2),
    Reader("ollama_runner", "llama runner process has terminated", _RUNNER, _runner, Weight.EVENT,
           span=1),
)  # fmt: skip
