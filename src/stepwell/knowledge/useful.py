"""Which released entries help: counted beside the entries, never written into them.

Each person counts for at most three good and three bad outcomes of an entry, so that nobody alone
brings one into discredit. Whether it helps more often than not is judged by a Beta posterior over
the counts (uniform prior). Nothing is retired by it: a proposal is for a person to look at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST = 3
_SURE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Usefulness:
    """`good`, `bad`: outcomes of requests whose context held the entry. `doubt`: the probability
    that it helps less than half of the time."""

    id: str
    good: int
    bad: int
    doubt: float

    @property
    def discredited(self) -> bool:
        return self.doubt >= _SURE


def usefulness(entry_id: str, people: list[tuple[int, int]]) -> Usefulness:
    """`people`: good and bad outcomes of each person."""
    good = sum(min(_MOST, one) for one, _ in people)
    bad = sum(min(_MOST, other) for _, other in people)
    return Usefulness(id=entry_id, good=good, bad=bad, doubt=_below_half(1 + good, 1 + bad))


def _below_half(a: int, b: int) -> float:
    """P(Beta(a, b) < 1/2) of integers: that of at least `a` heads in a + b - 1 fair tosses."""
    tosses = a + b - 1
    return sum(math.comb(tosses, heads) for heads in range(a, tosses + 1)) / 2**tosses
