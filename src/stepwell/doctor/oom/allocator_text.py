"""Other allocators around torch: the driver, cuBLAS, NCCL, MPS, and the CPU's."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import lack_steps
from stepwell.doctor.oom.reader import Reader, Sighting
from stepwell.doctor.oom.words import SIZE, Explanation, Holder, Step, parse_size

_BARE = re.compile(r"(?:CUDA|HIP) error: out of memory")
_BLAS = re.compile(
    r"(?:CUBLAS|HIPBLAS|CUDNN)_STATUS_(?:ALLOC_FAILED|NOT_ENOUGH_WORKSPACE)[^\n]{0,80}"
)
_NCCL = re.compile(r"Cuda failure(?: \d)? 'out of memory'")
_MPS = re.compile(
    rf"MPS backend out of memory \(MPS allocated: {SIZE}, other allocations: {SIZE}, "
    rf"max allowed: {SIZE}\)\.\s*Tried to allocate {SIZE}"
)
_CPU = re.compile(
    r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory): you tried to allocate "
    r"(?P<bytes>\d+) bytes(?:\. Error code \d+ \([^)]*\))?"
)


def _explain_bare(sight: Sighting) -> Explanation:
    return Explanation(
        kind="cuda_bare",
        source="CUDA driver",
        title="the driver had no memory, and its message has no numbers",
        why="The failed call was not made through PyTorch's caching allocator: a CUDA context, a "
        "graph, a library's workspace or pinned host memory. CUDA reports some failures at a "
        "later call than the one that caused them.",
        steps=lack_steps(sight.engine, sight.phase, sight.facts),
        text=sight.text,
        phase=sight.phase,
        holders=(Holder("everything on the device", None, "the message has no numbers"),),
    )


def _explain_library(sight: Sighting) -> Explanation:
    name = "NCCL" if sight.match.re is _NCCL else "cuBLAS"
    return Explanation(
        kind=f"{name.lower()}_alloc",
        source=name,
        title=f"{name} found no memory for its own buffers",
        why=f"{name} allocates outside PyTorch's allocator, from what the device has left; PyTorch "
        "or the KV pool had taken nearly all of it.",
        steps=lack_steps(sight.engine, sight.phase, sight.facts),
        text=sight.text,
        phase=sight.phase,
        holders=(Holder("PyTorch and the KV pool", None, "nearly all of the device"),),
    )


def _explain_mps(sight: Sighting) -> Explanation:
    allocated, other, limit, asked = map(parse_size, sight.match.groups())
    lack = allocated + other + asked - limit
    return Explanation(
        kind="torch_mps",
        source="PyTorch, MPS allocator",
        title="PyTorch's limit for Apple's GPU is reached",
        why=f"PyTorch holds {format_bytes(allocated)}, Metal and others of this process "
        f"{format_bytes(other)}; with the {format_bytes(asked)} asked for that exceeds the limit "
        f"by {format_bytes(lack)}. The limit is a share of unified memory, not what is free.",
        steps=(
            Step("Use a smaller batch, a shorter context or weights of fewer bits.",
                 f"{format_bytes(lack)} less is needed."),
            Step("Close other applications and free what this process keeps (other models).",
                 f"up to {format_bytes(other)} of other allocations"),
            Step("As a last resort PYTORCH_MPS_HIGH_WATERMARK_RATIO above its default.",
                 "lifts the limit; the system may then swap or fail"),
        ),
        text=sight.text, phase=sight.phase, device="Apple GPU", requested=asked, capacity=limit,
        holders=(Holder("PyTorch", allocated), Holder("other allocations", other, "Metal, caches")),
        evidence={"lack_bytes": float(lack)},
    )  # fmt: skip


def _explain_cpu(sight: Sighting) -> Explanation:
    asked = int(sight.group("bytes"))
    return Explanation(
        kind="torch_cpu",
        source="PyTorch, CPU allocator",
        title=f"the system refused {format_bytes(asked)} of host memory in one piece",
        why="The kernel refuses at once only what exceeds RAM plus swap (overcommit heuristics) or "
        "a limit of the process (ulimit -v, a job scheduler); smaller excesses are granted and "
        "end with the OOM killer instead.",
        steps=(
            Step("Find the tensor: the traceback above the message names the line. A size out of "
                 "proportion is a shape gone wrong or scores of [length, length].",
                 f"{format_bytes(asked)} less"),
            Step("Use a smaller batch or length, or load weights in their own precision "
                 "(dtype='auto', low_cpu_mem_usage) instead of float32.",
                 "half the host memory for weights in 16 bits"),
            Step("Check `free -h`, `ulimit -v` and the container's limit; stream weights that "
                 "exceed memory (stepwell serve --weights-budget).",
                 "shows which limit refused it"),
        ),
        text=sight.text, phase=sight.phase, device="host memory", requested=asked,
        holders=(Holder("host memory", None, "the message has no numbers of it"),),
    )  # fmt: skip


READERS = (
    Reader("torch_mps", "MPS backend out of memory", _MPS, _explain_mps),
    Reader("torch_cpu", "DefaultCPUAllocator: ", _CPU, _explain_cpu, span=4),
    Reader("cuda_bare", r"error: out of memory", _BARE, _explain_bare, span=1),
    Reader("cublas_alloc", r"BLAS_STATUS|CUDNN_STATUS", _BLAS, _explain_library, span=2),
    Reader("nccl_alloc", "Cuda failure", _NCCL, _explain_library, span=1),
)  # fmt: skip
