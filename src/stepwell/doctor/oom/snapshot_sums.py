"""Sums over a snapshot: what is held, by whom, and how what is free lies."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.oom.snapshot import Block, OomEvent, Segment, Snapshot, Stack

TOP = 12
_PARTS = (
    ("weights", re.compile(r"load_model|load_weights|create_weights|from_pretrained|load_state_dict"
                           r"|load_checkpoint|_load_pretrained")),
    ("KV cache", re.compile(r"kv_cache|init_memory_pool|KVPool|_create_buffers|PagedCache")),
)  # fmt: skip
_INSIDE = re.compile(r"(?:^|/)torch/|\.(?:cpp|cc|cu|h|cuh|c)$|^\?\?$|^$|/lib/python[\d.]+/\w+\.py$")
OTHER = "activations and others"
PRIVATE = "private pools (CUDA graphs)"


@dataclass(frozen=True, slots=True)
class TopHolder:
    """A line of the program, and the bytes of its live blocks."""

    where: str
    part: str
    size: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSums:
    """Bytes of one device's allocator. `rounding`: of active blocks, beyond what was asked for.
    `free_*`: inactive, of the default pool; `pinned`: of it in segments that also hold something,
    so that they cannot be given back; `private_free`: of private pools. `largest_free`: the largest
    single piece of the default pool."""

    device: int
    reserved: int
    allocated: int
    waiting: int
    rounding: int
    free: int
    pinned: int
    private_free: int
    largest_free: int
    free_pieces: int
    segments: int
    parts: dict[str, int]
    top: tuple[TopHolder, ...]
    oom: OomEvent | None

    @property
    def fragmentation(self) -> float:
        """0: all that is free is one piece; near 1: none of it is large. 0 where nothing is."""
        return 1.0 - self.largest_free / self.free if self.free else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; bytes."""
        oom = self.oom
        return {
            "device": self.device,
            "reserved_bytes": self.reserved,
            "allocated_bytes": self.allocated,
            "awaiting_free_bytes": self.waiting,
            "rounding_bytes": self.rounding,
            "free_bytes": self.free,
            "free_pinned_bytes": self.pinned,
            "private_free_bytes": self.private_free,
            "largest_free_bytes": self.largest_free,
            "free_pieces": self.free_pieces,
            "segments": self.segments,
            "fragmentation": self.fragmentation,
            "parts": self.parts,
            "top": [
                {"where": top.where, "part": top.part, "bytes": top.size, "blocks": top.blocks}
                for top in self.top
            ],
            "oom": None if oom is None else {"bytes": oom.size, "device_free_bytes": oom.free},
        }


def sum_devices(snapshot: Snapshot) -> tuple[DeviceSums, ...]:
    """One for each device that has segments or failed; the failed one last, for it matters most."""
    by_device: dict[int, list[Segment]] = defaultdict(list)
    for segment in snapshot.segments:
        by_device[segment.device].append(segment)
    last = {oom.device: oom for oom in snapshot.ooms}
    devices = sorted({*by_device, *last}, key=lambda at: (at in last, at))
    return tuple(_sum(at, by_device[at], last.get(at)) for at in devices)


def _sum(device: int, segments: list[Segment], oom: OomEvent | None) -> DeviceSums:
    parts: Counter[str] = Counter()
    holders: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    free: list[int] = []
    sums: Counter[str] = Counter()
    for segment in segments:
        sums["reserved"] += segment.size
        holds = any(block.is_active or block.is_waiting for block in segment.blocks)
        for block in segment.blocks:
            if block.is_active:
                part = _part(segment, block)
                sums["allocated"] += block.size
                sums["rounding"] += max(0, block.size - block.requested)
                parts[part] += block.size
                entry = holders[where(block.frames), part]
                entry[0] += block.size
                entry[1] += 1
            elif block.is_waiting:
                sums["waiting"] += block.size
            elif segment.is_private:
                sums["private"] += block.size
            else:
                free.append(block.size)
                sums["pinned"] += block.size if holds else 0
    ranked = sorted(holders.items(), key=lambda item: -item[1][0])[:TOP]
    return DeviceSums(
        device=device, reserved=sums["reserved"], allocated=sums["allocated"],
        waiting=sums["waiting"], rounding=sums["rounding"], free=sum(free), pinned=sums["pinned"],
        private_free=sums["private"], largest_free=max(free, default=0), free_pieces=len(free),
        segments=len(segments), parts=dict(parts.most_common()),
        top=tuple(TopHolder(line, part, size, n) for (line, part), (size, n) in ranked), oom=oom,
    )  # fmt: skip


def where(frames: Stack) -> str:
    """The innermost line that is not torch's or Python's own."""
    for frame in frames:
        if not _INSIDE.search(frame.filename):
            return str(frame)
    return str(frames[0]) if frames else "no stack recorded"


def _part(segment: Segment, block: Block) -> str:
    if block.tag:
        return block.tag
    if segment.is_private:
        return PRIVATE
    for frame in block.frames:
        for part, pattern in _PARTS:
            if pattern.search(frame.name) or pattern.search(frame.filename):
                return part
    return OTHER if block.frames else "unknown (no stacks recorded)"
