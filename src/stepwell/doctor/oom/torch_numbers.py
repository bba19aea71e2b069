"""The numbers of torch's message, and what follows from them: the cause, and who holds what."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from stepwell.doctor.oom.facts import LogFacts
from stepwell.doctor.oom.words import Holder

_MUCH = 0.05
"""Share of the device below which other processes and contexts are no cause: a context takes some
hundred MiB."""

_GRANULE = 64 << 20
"""Bytes by which free memory must exceed a request that should have been granted: requests are
rounded up, and the driver keeps some."""

_IN_PIECES = 0.02
"""Share of the device that must lie unused in the cache for fragmentation to be the cause; below
it the device is full, whatever the pieces."""


class Cause(enum.Enum):
    """Why the allocator gave up."""

    TOO_LARGE = "the request exceeds the device"
    OTHERS = "other processes"
    OUTSIDE = "memory outside the allocator"
    FRAGMENTED = "fragmentation"
    FREE_BUT_REFUSED = "free, but refused"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchNumbers:
    """Bytes of one message; None: not in it. `idle`: reserved, not allocated. `pools`: private
    pools (graphs), part of `allocated`. `own`: this process with what torch does not see.
    `named`: (process id, bytes) of the processes that the message names."""

    requested: int
    capacity: int
    free: int
    allocated: int | None = None
    idle: int | None = None
    pools: int | None = None
    own: int | None = None
    limit: int | None = None
    named: tuple[tuple[int, int], ...] = ()

    @property
    def reserved(self) -> int:
        """What PyTorch took from the device."""
        return (self.allocated or 0) + (self.idle or 0)

    @property
    def itself(self) -> int | None:
        """This process: as the message says it; else the one process named that holds at least
        what PyTorch reserved (in a container it is not recognized by its id); else unknown."""
        if self.own is not None:
            return self.own
        holding = [size for _, size in self.named if size >= 0.98 * self.reserved > 0]
        return holding[0] if len(holding) == 1 else None

    @property
    def outside(self) -> int | None:
        """Of this process, outside PyTorch's allocator."""
        return None if self.itself is None else max(0, self.itself - self.reserved)

    @property
    def others(self) -> int | None:
        """Of other processes: what is neither free nor this process's."""
        if self.itself is None:
            return None
        return max(0, self.capacity - self.free - self.itself)

    @property
    def unseen(self) -> int:
        """Neither free nor PyTorch's: contexts, libraries and other processes."""
        return max(0, self.capacity - self.free - self.reserved)

    @property
    def peers(self) -> int:
        """Other processes named that hold about as much as this one: ranks of one program."""
        if self.own is None:
            return 0
        return sum(0.5 * self.own <= size <= 2 * self.own for _, size in self.named)

    def evidence(self) -> dict[str, float]:
        """Named numbers, bytes."""
        found = {
            "allocated_bytes": self.allocated,
            "reserved_unallocated_bytes": self.idle,
            "private_pools_bytes": self.pools,
            "this_process_bytes": self.itself,
            "other_processes_bytes": self.others,
            "not_pytorch_bytes": self.unseen if self.allocated is not None else None,
        }
        return {name: float(size) for name, size in found.items() if size is not None}


def cause_of(numbers: TorchNumbers) -> Cause:
    """The first that explains it, most certain first."""
    lack = numbers.requested - numbers.free
    if numbers.requested > numbers.capacity:
        return Cause.TOO_LARGE
    if numbers.free >= numbers.requested + _GRANULE:
        return Cause.FREE_BUT_REFUSED
    others = numbers.others
    if others is not None and others >= max(lack, _MUCH * numbers.capacity):
        return Cause.OTHERS
    outside = numbers.unseen if others is None else numbers.outside or 0
    if outside >= max(lack, numbers.reserved):
        return Cause.OUTSIDE
    idle = numbers.idle or 0
    if idle + numbers.free >= numbers.requested and idle >= _IN_PIECES * numbers.capacity:
        return Cause.FRAGMENTED
    return Cause.FULL


def holders_of(numbers: TorchNumbers, facts: LogFacts) -> tuple[Holder, ...]:
    """All of the device: PyTorch's part split by what the log says, then the rest."""
    held = [*_split(numbers, facts)]
    if numbers.idle is not None:
        held.append(Holder("PyTorch's unused cache", numbers.idle, "reserved but unallocated"))
    if numbers.itself is not None:
        note = "CUDA context, NCCL, libraries"
        held.append(Holder("this process outside PyTorch", numbers.outside, note))
        held.append(Holder("other processes", numbers.others, _named(numbers)))
    else:
        note = "the message does not say which"
        held.append(Holder("other processes and memory outside PyTorch", numbers.unseen, note))
    held.append(Holder("free", numbers.free))
    return tuple(held)


def _split(numbers: TorchNumbers, facts: LogFacts) -> list[Holder]:
    """Of what PyTorch allocated: weights and KV as the server's log gives them, graphs, rest."""
    if numbers.allocated is None:
        return [Holder("PyTorch", None, "the message does not say")]
    left = numbers.allocated
    held = []
    if numbers.pools is not None:
        held.append(Holder("private pools (CUDA graphs)", numbers.pools))
        left -= numbers.pools
    for part, name in (("weights", "weights"), ("kv", "KV pool")):
        size = facts.sizes.get(part)
        if size is not None and size <= left:
            held.append(Holder(name, size, "as the log says"))
            left -= size
    if not any(part in facts.sizes for part in ("weights", "kv")):
        note = "weights, KV and activations: the text does not split them"
        return [*held, Holder("PyTorch's tensors", left, note)]
    known = {"weights", "KV pool"} - {holder.name for holder in held}
    note = "activations, buffers" + (
        f"; may include {' and '.join(sorted(known))}" if known else ""
    )
    return [*held, Holder("PyTorch's other tensors", left, note)]


def _named(numbers: TorchNumbers) -> str:
    shown = [f"process {pid}" for pid, size in numbers.named if size != numbers.itself]
    if not shown:
        return ""
    return f"{len(shown)} named" if len(shown) > 3 else ", ".join(shown)
