"""torch's allocators of devices (CUDA, HIP, XPU, NPU) in their old and new wordings."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import steps_for_full_device
from stepwell.doctor.oom.reader import Reader, Sighting
from stepwell.doctor.oom.torch_numbers import Cause, TorchNumbers, cause_of, holders_of
from stepwell.doctor.oom.words import SIZE, Explanation, parse_size

_BACKENDS = "CUDA|HIP|XPU|NPU|MUSA|MLU"
_TRIED = rf"(?P<backend>{_BACKENDS}) out of memory\.\s*Tried to allocate {SIZE}"
# Newer than torch 2.0. "capacty" is how 2.1 wrote it.
_NEW = re.compile(
    _TRIED
    + rf"\.?\s*[GNX]PU (?P<gpu>\d+) has a total capac\w+ of {SIZE} of which {SIZE} is free"
    + r"(?P<rest>.*?(?:reserved by PyTorch but unallocated"
    + rf"|(?=Traceback|(?:{_BACKENDS}) out of)|$))",
    re.DOTALL,
)
_OLD = re.compile(
    _TRIED
    + rf"\s*\(\w+ (?P<gpu>\d+); {SIZE} total capacity; {SIZE} already allocated; "
    + rf"(?:[\d.]+ \w+ current active; )?{SIZE} free; "
    + rf"{SIZE} (?:reserved in total by PyTorch|cached)"
)
_TITLES = {
    Cause.TOO_LARGE: "one request for memory is larger than the whole device",
    Cause.OTHERS: "other processes hold the memory that was missing",
    Cause.OUTSIDE: "memory outside PyTorch's allocator fills the device",
    Cause.FRAGMENTED: "enough memory is free inside PyTorch's cache, in pieces that are too small",
    Cause.FREE_BUT_REFUSED: "more was free than was asked for, and it was refused",
    Cause.FULL: "the device is full",
}


def _explain_device(sight: Sighting) -> Explanation:
    numbers = _new_numbers(sight) if sight.match.re is _NEW else _old_numbers(sight)
    cause = cause_of(numbers)
    return Explanation(
        kind=f"torch_{cause.name.lower()}",
        source=f"PyTorch, {sight.group('backend')} allocator",
        title=_TITLES[cause],
        why=_why(cause, numbers),
        steps=steps_for_full_device(
            cause, numbers, engine=sight.engine, phase=sight.phase, facts=sight.facts
        ),
        text=sight.text,
        phase=sight.phase,
        device=f"GPU {sight.group('gpu')}",
        requested=numbers.requested,
        capacity=numbers.capacity,
        free=numbers.free,
        holders=holders_of(numbers, sight.facts),
        fragmentation=_fragmentation(cause, numbers),
        evidence=numbers.evidence(),
    )


def _new_numbers(sight: Sighting) -> TorchNumbers:
    rest = sight.group("rest")
    requested, capacity, free = (parse_size(text) for text in _sizes(sight.match, 3))
    own = re.search(rf"this process has {SIZE} memory in use", rest)
    allocated = re.search(rf"{SIZE} is allocated by PyTorch", rest)
    pools = re.search(rf"with {SIZE} allocated in private pools", rest)
    if pools and not allocated:
        allocated = re.search(rf"allocated memory {SIZE}", rest)
    idle = re.search(rf"{SIZE} is reserved by PyTorch but unallocated", rest)
    limit = re.search(rf"{SIZE} allowed", rest)
    return TorchNumbers(
        requested=requested,
        capacity=capacity,
        free=free,
        allocated=_optional(allocated),
        idle=_optional(idle),
        pools=_optional(pools),
        own=_optional(own),
        limit=_optional(limit),
        named=tuple(
            (int(pid), parse_size(size))
            for pid, size in re.findall(rf"Process (\d+) has {SIZE} memory in use", rest)
        ),
    )


def _old_numbers(sight: Sighting) -> TorchNumbers:
    requested, capacity, allocated, free, reserved = map(parse_size, _sizes(sight.match, 5))
    idle = max(0, reserved - allocated)
    if sight.text.endswith("cached"):  # before torch 1.4 the cache was named without the allocated
        idle = reserved
    return TorchNumbers(
        requested=requested, capacity=capacity, free=free, allocated=allocated, idle=idle
    )


def _sizes(match: re.Match[str], count: int) -> list[str]:
    named = set(match.re.groupindex.values())
    plain = [text for n, text in enumerate(match.groups(), start=1) if n not in named]
    return plain[:count]


def _optional(match: re.Match[str] | None) -> int | None:
    return None if match is None else parse_size(match[1])


def _why(cause: Cause, numbers: TorchNumbers) -> str:
    asked, free = format_bytes(numbers.requested), format_bytes(numbers.free)
    capacity = format_bytes(numbers.capacity)
    match cause:
        case Cause.TOO_LARGE:
            return (
                f"{asked} at once cannot fit into {capacity}, however empty: a tensor grows with "
                "the square of the length (attention scores without a fused kernel), with batch "
                "times vocabulary (logits of a whole prompt), or with a batch that is too large."
            )
        case Cause.OTHERS:
            peers = (
                f" {numbers.peers} of them hold about as much as this one: ranks of one program "
                "that all chose this device."
                if numbers.peers > 1
                else ""
            )
            return (
                f"{asked} were asked for and {free} were free, while processes other than this "
                f"one hold {format_bytes(numbers.others or 0)}: without them it would have fitted."
                f"{peers}"
            )
        case Cause.OUTSIDE:
            return (
                f"Of {capacity} PyTorch's allocator holds only {format_bytes(numbers.reserved)}. "
                "The rest is another process, or this one outside the allocator: a TensorRT "
                "engine, NCCL, a second framework, CUDA's own context."
            )
        case Cause.FRAGMENTED:
            return (
                f"{asked} were asked for. {free} are free on the device and "
                f"{format_bytes(numbers.idle or 0)} lie unused in PyTorch's cache, but no single "
                "free piece is large enough."
            )
        case Cause.FREE_BUT_REFUSED:
            return (
                f"{asked} were asked for and {free} were free, so the message does not say why. "
                "Known reasons: a limit below the capacity (set_per_process_memory_fraction, a "
                "container or MIG slice), host memory or address space that ran out (drivers on "
                "Windows, WSL and integrated GPUs back device memory with it), or another "
                "process that took and freed memory in between."
            )
        case Cause.FULL:
            return (
                f"{asked} were asked for and {free} of {capacity} were free: what is allocated "
                "is in use."
            )


def _fragmentation(cause: Cause, numbers: TorchNumbers) -> str:
    if numbers.idle is None:
        return "The message does not say how much PyTorch reserved without using it."
    share = numbers.idle / numbers.capacity if numbers.capacity else 0.0
    told = f"Reserved but unallocated: {format_bytes(numbers.idle)}, {share:.1%} of the device"
    if cause is Cause.FRAGMENTED:
        return f"{told}; with what is free that is as much as was asked for: in pieces."
    if numbers.idle >= numbers.requested:
        return f"{told}. It would have served this request in one piece, and hardly another one."
    return f"{told}: fragmentation is not the cause."


READERS = (
    Reader("torch_device", rf"(?:{_BACKENDS}) out of memory\.\s*(?:Tried|$)", _NEW,
           _explain_device, span=12),
    Reader("torch_device", rf"(?:{_BACKENDS}) out of memory\.\s*(?:Tried|$)", _OLD,
           _explain_device),
)  # fmt: skip
