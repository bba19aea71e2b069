"""Which weights stay in memory and which are read again in every pass: a small cost model.

A *unit* is what is read in one piece and computed at once: a decoder layer, or a slab of the output
head. A pass visits all units in ascending order, so what is used next is known, and no replacement
policy beats a fixed choice by more than one unit a pass. The choice here is finer than whole units:
of each one, a prefix of its tensors may stay and only the rest is read. With an equal part of every
unit resident the slots of the double buffer shrink, too, which leaves more for residents; and every
unit then gives the disk the same work, so that it never waits for the arithmetic of a resident run.

Weights in bfloat16 can be kept in 12 bits a number, which cuts what is read by a quarter and costs
unpacking all of them in each pass. Where most weights stay, that is the longer of the two.

Pure arithmetic, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLOTS = 2
"""One is computed from while the other is filled. A third would smooth what two already hide, and
its bytes save more reading as residents."""


CODED_SHARE = 0.75
"""Bytes of weights in 12 bits over those in 16. Also the budget, over the weights, below which they
are kept so: above it all would stay, and unpacking takes about as long as reading a quarter."""


def is_coded(budget: int, weights: int) -> bool:
    """Whether bfloat16 weights of so many bytes are kept in 12 bits."""
    return budget < CODED_SHARE * weights


@dataclass(frozen=True, slots=True)
class Residency:
    """`kept[i]`: how many tensors of unit i stay, from its first on. Sizes in bytes; `slot`: of
    one slot; `streamed`: read in every pass."""

    kept: tuple[int, ...]
    slot: int
    resident: int
    streamed: int

    @property
    def total(self) -> int:
        """Bytes of memory for units: residents and slots."""
        return self.resident + SLOTS * self.slot


def least_bytes(units: Sequence[Sequence[int]]) -> int:
    """The smallest budget with which the units can be streamed."""
    return SLOTS * max(sum(unit) for unit in units)


def choose_residents(units: Sequence[Sequence[int]], *, budget: int) -> Residency | None:
    """The choice that reads least per pass; None where `budget` does not hold two whole units.

    `units[i]`: bytes of the tensors of unit i, in file order. Ties go to the smaller slots, which
    leave the disk less to do ahead of time.
    """
    suffixes = [_suffix_sums(unit) for unit in units]
    best: Residency | None = None
    for slot in sorted({size for sums in suffixes for size in sums}):
        found = _with_slot(units, suffixes, slot=slot, budget=budget)
        if found is not None and (best is None or found.streamed < best.streamed):
            best = found
    return best


def _with_slot(
    units: Sequence[Sequence[int]],
    suffixes: Sequence[Sequence[int]],
    *,
    slot: int,
    budget: int,
) -> Residency | None:
    """The choice whose slots have `slot` bytes; None where it exceeds the budget."""
    kept = [next(k for k, rest in enumerate(sums) if rest <= slot) for sums in suffixes]
    left = budget - SLOTS * slot - sum(s[0] - s[k] for s, k in zip(suffixes, kept, strict=True))
    if left < 0:
        return None
    for unit in _spread(len(units)):
        while kept[unit] < len(units[unit]) and units[unit][kept[unit]] <= left:
            left -= units[unit][kept[unit]]
            kept[unit] += 1
    rests = [sums[k] for sums, k in zip(suffixes, kept, strict=True)]
    return Residency(
        kept=tuple(kept),
        slot=max(rests),
        resident=sum(sums[0] for sums in suffixes) - sum(rests),
        streamed=sum(rests),
    )


def _suffix_sums(unit: Sequence[int]) -> list[int]:
    """Bytes from tensor k on, for k from 0 to the number of tensors."""
    sums = [0]
    for size in reversed(unit):
        sums.append(sums[-1] + size)
    return sums[::-1]


def _spread(count: int) -> list[int]:
    """All numbers below count, any first few of them far from each other (bits reversed)."""
    bits = max(1, (count - 1).bit_length())
    order = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits))
    return [i for i in order if i < count]
