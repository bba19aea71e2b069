"""Who holds a process's memory: lines whose sum is held against what the system says.

Owns the nouns. Who fills them in, and what each part is: `engine/account.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepwell.base.decisions import Decision
from stepwell.base.units import format_bytes


class Part(StrEnum):
    """What memory is held for; the labels of /metrics."""

    EMBEDDING = "weights_embedding"
    LAYERS = "weights_layers"
    HEAD = "weights_head"
    OTHER = "weights_other"
    POOL = "kv_pool"
    WORKSPACE = "workspace"
    HOST_TIER = "host_tier"
    PACKED = "packed"
    TOKENIZER = "tokenizer"
    KERNELS = "kernels"
    INTERPRETER = "interpreter"
    LIBRARIES = "libraries"
    KEPT = "malloc_kept"


@dataclass(frozen=True, slots=True)
class Held:
    """One line. `committed`: bytes allocated; `resident`: bytes of them in memory."""

    part: Part
    committed: int
    resident: int


@dataclass(frozen=True, slots=True)
class MemoryAccount:
    """The process at one moment. `system`: what the operating system calls resident (RSS)."""

    held: tuple[Held, ...]
    system: int

    @property
    def resident(self) -> int:
        """The sum of all lines."""
        return sum(line.resident for line in self.held)

    @property
    def unaccounted(self) -> int:
        """Resident bytes that no line explains; below zero where lines claim too much."""
        return self.system - self.resident

    @property
    def unaccounted_share(self) -> float:
        """Of what the system says."""
        return self.unaccounted / self.system

    def of(self, part: Part) -> int:
        """Resident bytes of a part; 0 where it has no line."""
        return sum(line.resident for line in self.held if line.part is part)

    def decisions(self, *, proportional: int | None = None) -> tuple[Decision, ...]:
        """For `--explain`: one line for each part, and the sum. `proportional`: the process's
        memory with shared pages divided among processes, where that is known."""
        lines = [
            Decision(f"memory.{line.part}", line.resident, _explain(line))
            for line in self.held
            if line.committed or line.resident
        ]
        why = (
            f"{format_bytes(self.resident)} in the lines above, {format_bytes(self.system)} "
            f"resident for the operating system: {self.unaccounted_share:+.1%} unaccounted"
        )
        if proportional is not None:
            why += f"; {format_bytes(proportional)} with shared pages divided among processes"
        return (*lines, Decision("memory.unaccounted", self.unaccounted, why))


def _explain(line: Held) -> str:
    if line.committed == line.resident:
        return format_bytes(line.resident)
    return f"{format_bytes(line.resident)} in memory of {format_bytes(line.committed)} allocated"
