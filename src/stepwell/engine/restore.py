"""The loads of one admitted sequence, and how far computing may go meanwhile.

Pure bookkeeping in tokens and chunk indexes. A chunk is *pending* while its load is under way,
*landed* once its bytes are in the sequence's blocks and verified. Computing never enters a pending
chunk: a load and a forward pass would write the same slots.

    WAIT      nothing is computed until nothing is pending (a load that is much faster than a step)
    OVERTAKE  computing goes on in front; a pending chunk that it reaches is to be cancelled
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Pace(enum.Enum):
    """What computing does while chunks are pending."""

    WAIT = "wait"
    OVERTAKE = "overtake"


@dataclass(slots=True)
class Restore:
    """`pending`: chunk index -> order id. Owned by the engine's thread."""

    chunk_tokens: int
    pace: Pace
    pending: dict[int, int] = field(default_factory=dict)
    landed: set[int] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Nothing is under way and nothing waits to be reached."""
        return not self.pending and not self.landed

    def ended(self, index: int, *, arrived: bool) -> None:
        """The load of a chunk was reported."""
        del self.pending[index]
        if arrived:
            self.landed.add(index)

    def advance(self, computed: int, *, last: int) -> int:
        """`computed` after jumping over landed chunks, at most `last` (the token whose logits are
        wanted is always computed)."""
        while computed // self.chunk_tokens in self.landed and computed % self.chunk_tokens == 0:
            index = computed // self.chunk_tokens
            self.landed.discard(index)
            computed = min((index + 1) * self.chunk_tokens, last)
        # A chunk that computing has entered or passed is of no use any more.
        self.landed = {i for i in self.landed if i * self.chunk_tokens >= computed}
        return computed

    def runnable(self, computed: int) -> int | None:
        """Tokens that may be computed from `computed` on; None: no limit."""
        if not self.pending and not self.landed:
            return None
        if self.pending and self.pace is Pace.WAIT:
            return 0
        ahead = [i * self.chunk_tokens for i in (*self.pending, *self.landed)]
        return max(0, min(ahead) - computed)

    def reached(self, computed: int, budget: int) -> list[int]:
        """Orders of pending chunks that computing stands at, `budget` tokens far."""
        if self.pace is Pace.WAIT or self.runnable(computed) != 0:
            return []
        end = computed + budget
        return [order for i, order in self.pending.items() if i * self.chunk_tokens < end]
