"""Made-up sessions of any number, for questions of scale. Not a model of anybody's traffic.

Sessions arrive as a Poisson process; each has a geometric number of turns, log-normal think times
and one of a few shared system prompts; some requests are one-off documents.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import WorkloadClass
from stepwell.simulate.trace import TraceRequest

_SYSTEM_PROMPTS = 16
_SYSTEM_BLOCKS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticTrace(Sequence[TraceRequest]):
    """`total` requests, made anew at each pass and never held together. `rate`: sessions/s."""

    total: int
    seed: int = 1
    rate: float = 4.0
    more_turns: float = 0.7
    document_share: float = 0.15
    block_tokens: int = 512

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> TraceRequest:  # type: ignore[override]
        raise TypeError("a synthetic trace can only be read in order")

    def __iter__(self) -> Iterator[TraceRequest]:
        source = random.Random(self.seed)
        clock, number = 0.0, 0
        due: list[tuple[float, int, tuple[bytes, ...]]] = []
        for _ in range(self.total):
            if not due or due[0][0] > clock:
                clock += source.expovariate(self.rate)
            if due and due[0][0] <= clock:
                time, session, before = heapq.heappop(due)
            else:
                time, session, before = clock, number, ()
                number += 1
            request, chain = self._turn(source, time, session, before)
            if request.workload is WorkloadClass.CHAT and source.random() < self.more_turns:
                again = time + 5.0 + source.lognormvariate(4.0, 1.0)
                heapq.heappush(due, (again, session, chain))
            yield request

    def _turn(
        self, source: random.Random, time: float, session: int, before: tuple[bytes, ...]
    ) -> tuple[TraceRequest, tuple[bytes, ...]]:
        kind = WorkloadClass.CHAT
        grow = 1 + int(source.expovariate(0.5))
        chain = before
        if not before:
            if source.random() < self.document_share:
                kind, grow = WorkloadClass.DOCUMENT, 10 + int(source.expovariate(0.1))
            else:
                prompt = min(_SYSTEM_PROMPTS - 1, int(source.expovariate(0.3)))
                chain = tuple(b"s%d.%d" % (prompt, i) for i in range(_SYSTEM_BLOCKS))
        first = len(chain)
        chain += tuple(b"%d.%d" % (session, i) for i in range(first, first + grow))
        tokens = len(chain) * self.block_tokens
        request = TraceRequest(time, tokens, 1 + int(source.expovariate(0.005)), chain,
                               workload=kind)  # fmt: skip
        return request, chain
