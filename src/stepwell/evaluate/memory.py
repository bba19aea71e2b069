"""What memory a process takes from the operating system, and when.

"Steady state" on a CPU means: malloc needs nothing new. glibc's `mallinfo2` says how much it holds
(`arena` by brk, `hblkhd` by mmap); a step *allocates* when their sum rises above its highest value
so far, or when the KV pool has moved. On CUDA the allocator counts its own cudaMalloc calls.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from typing import Any

from stepwell.hardware.malloc import read_malloc


def malloc_bytes() -> int | None:
    """Bytes that malloc holds of the operating system now; None where glibc cannot tell."""
    found = read_malloc()
    return None if found is None else found.heaps + found.mapped


def page_faults() -> int:
    """Minor page faults of this process so far: each maps one fresh page."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def cuda_allocations() -> int:
    """cudaMalloc calls of torch so far; 0 where there is no CUDA."""
    torch = sys.modules.get("torch")  # importing it here would be an allocation itself
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.memory_stats().get("num_device_alloc", 0))


@dataclass(slots=True)
class AllocationCounter:
    """Counts the steps that took memory. Call `step` after each one; `start` begins the window."""

    high_water: int = 0
    pool_address: int = 0
    steps: int = 0
    allocating_steps: int = 0
    grown: int = 0
    faults: int = 0
    cuda: int = 0

    def warm(self, *, pool_address: int) -> None:
        """After a warm-up step: raises the high-water mark, counts nothing."""
        self.high_water = max(self.high_water, malloc_bytes() or 0)
        self.pool_address = pool_address

    def start(self) -> None:
        """The window begins."""
        self.steps = self.allocating_steps = self.grown = 0
        self.faults, self.cuda = page_faults(), cuda_allocations()

    def step(self, *, pool_address: int) -> None:
        """After a step of the window."""
        held = malloc_bytes() or 0
        self.steps += 1
        if held > self.high_water or pool_address != self.pool_address:
            self.allocating_steps += 1
            self.grown += max(0, held - self.high_water)
        self.high_water, self.pool_address = max(held, self.high_water), pool_address

    def result(self) -> dict[str, Any]:
        """Counts of the window; `steady_allocations` is None where nothing can be told."""
        known = malloc_bytes() is not None
        return {
            "steps": self.steps,
            "steady_allocations": self.allocating_steps if known else None,
            "bytes_grown": self.grown,
            "page_faults_per_step": (page_faults() - self.faults) / max(1, self.steps),
            "cuda_allocations": cuda_allocations() - self.cuda,
        }
