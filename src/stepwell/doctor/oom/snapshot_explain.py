"""An explanation of a snapshot: of its last failed request, or of what is held if none failed."""

from __future__ import annotations

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.snapshot import OomEvent
from stepwell.doctor.oom.snapshot_sums import PRIVATE, DeviceSums, where
from stepwell.doctor.oom.words import Explanation, Holder, Phase, Step

_EXPANDABLE = Step(
    "Set PYTORCH_ALLOC_CONF=expandable_segments:True (PYTORCH_CUDA_ALLOC_CONF before torch 2.10).",
    "free pieces can then be joined",
)
_RECORD = Step(
    "Record stacks: torch.cuda.memory._record_memory_history() before the model is loaded.",
    "says which lines hold memory",
)
_BY_PART = {
    "weights": Step("Use fewer bits for weights, or more devices.", "the largest part shrinks"),
    "KV cache": Step("Give the KV pool less (a lower --gpu-memory-utilization, "
                     "--mem-fraction-static or cache.pool), or KV in 8 bits.",
                     "leaves more beside the pool"),
    PRIVATE: Step("Capture fewer and smaller CUDA graphs.", "their pools shrink"),
}  # fmt: skip
_SMALLER = Step(
    "Smaller steps: fewer tokens or a smaller batch at once; run under torch.inference_mode().",
    "activations shrink in proportion",
)


def explain_sums(sums: DeviceSums) -> Explanation:
    """Of one device."""
    oom = sums.oom
    fragmented = oom is not None and sums.largest_free < oom.size <= sums.free
    kind, title, why = _verdict(sums, oom, fragmented=fragmented)
    return Explanation(
        kind=kind,
        source="PyTorch memory snapshot",
        title=title,
        why=why,
        steps=_steps(sums, fragmented=fragmented),
        text="" if oom is None else f"a request of {format_bytes(oom.size)} at {where(oom.frames)}",
        phase=Phase.UNKNOWN,
        device=f"GPU {sums.device}",
        requested=None if oom is None else oom.size,
        free=None if oom is None else oom.free,
        holders=_holders(sums),
        fragmentation=_pieces(sums),
        evidence={
            "fragmentation": sums.fragmentation,
            "largest_free_bytes": float(sums.largest_free),
            "reserved_bytes": float(sums.reserved),
            "allocated_bytes": float(sums.allocated),
        },
    )


def _verdict(sums: DeviceSums, oom: OomEvent | None, *, fragmented: bool) -> tuple[str, str, str]:
    if oom is None:
        return (
            "snapshot_held",
            "no request failed in the recorded history",
            "The snapshot shows what was held when it was taken. If something failed, history was "
            "not being recorded, or the snapshot was taken in another process.",
        )
    asked, left = format_bytes(oom.size), format_bytes(oom.free or 0)
    if fragmented:
        return (
            "snapshot_fragmented",
            f"{asked} failed while {format_bytes(sums.free)} lay free in pieces",
            f"The largest piece has {format_bytes(sums.largest_free)}; the device had {left} left.",
        )
    if oom.size <= sums.largest_free:
        return (
            "snapshot_later",
            f"{asked} failed; by the time of the snapshot there was room again",
            "The snapshot was taken after memory was freed (when the exception had unwound). What "
            "it shows is not what was held when the request failed.",
        )
    return (
        "snapshot_full",
        f"{asked} failed: the allocator's memory is in use",
        f"The device had {left} left, and {format_bytes(sums.free)} were free in the allocator, "
        f"{format_bytes(sums.pinned)} of it in segments that also hold something.",
    )


def _steps(sums: DeviceSums, *, fragmented: bool) -> tuple[Step, ...]:
    steps = [_EXPANDABLE] if fragmented else []
    largest = next(iter(sums.parts), "")
    steps += [_BY_PART[largest]] if largest in _BY_PART else []
    steps.append(_SMALLER)
    if sums.private_free > sums.reserved * 0.02:
        size = format_bytes(sums.private_free)
        steps.append(Step(_BY_PART[PRIVATE].change, f"{size} are free there, for graphs only"))
    if any(part.startswith("unknown") for part in sums.parts):
        steps.append(_RECORD)
    if not fragmented and sums.pinned > sums.reserved * 0.1:
        steps.append(_EXPANDABLE)
    return tuple(steps)


def _holders(sums: DeviceSums) -> tuple[Holder, ...]:
    held = [Holder(part, size) for part, size in sums.parts.items()]
    for name, size, note in (
        ("freed, awaiting another stream", sums.waiting, ""),
        ("free in private pools", sums.private_free, "for graphs only"),
        ("free in the allocator", sums.free, f"{sums.free_pieces} pieces"),
    ):
        if size:
            held.append(Holder(name, size, note))
    outside = Holder(
        "outside PyTorch's allocator", None, "a snapshot does not see it: context, NCCL"
    )
    return (*held, outside)


def _pieces(sums: DeviceSums) -> str:
    if not sums.free:
        return "Nothing is free in the allocator's default pool."
    return (
        f"Of {format_bytes(sums.free)} free in {sums.free_pieces} pieces the largest has "
        f"{format_bytes(sums.largest_free)}: fragmentation {sums.fragmentation:.2f} (0: one "
        "piece). "
        f"Rounding of requests takes {format_bytes(sums.rounding)}."
    )
