"""When requests are to be sent: offsets in seconds from the start of the load.

Open-loop kinds fix the times beforehand, so that a slow server cannot slow its own load down and
hide its stalls; `closed` has no times, a free slot sends the next request.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum

from stepwell.base.errors import ConfigError
from stepwell.evaluate.workload import Workload


class Arrival(StrEnum):
    """How requests arrive. `trace`: at the times that the trace recorded."""

    CLOSED = "closed"
    POISSON = "poisson"
    GAMMA = "gamma"
    TRACE = "trace"


def gamma_offsets(*, count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Times of `count` arrivals, `rate` a second on average, the first at 0.

    Gaps are gamma-distributed with shape `burstiness`: 1 is a Poisson process, less is burstier,
    more is steadier (the meaning of `--burstiness` in vLLM's benchmark).
    """
    if rate <= 0 or burstiness <= 0:
        raise ConfigError("rate and burstiness must be above 0.", param="rate")
    source = random.Random(seed)
    offsets, now = [], 0.0
    for _ in range(count):
        offsets.append(now)
        now += source.gammavariate(burstiness, 1 / (rate * burstiness))
    return offsets


def schedule(
    workload: Workload, *, kind: Arrival, rate: float, burstiness: float, seed: int
) -> Workload:
    """The same requests with their send times. A trace keeps its own; closed has none."""
    if kind in (Arrival.CLOSED, Arrival.TRACE):
        return workload
    shape = 1.0 if kind is Arrival.POISSON else burstiness
    offsets = gamma_offsets(count=len(workload.requests), rate=rate, burstiness=shape, seed=seed)
    return with_offsets(workload, offsets)


def with_offsets(workload: Workload, offsets: Sequence[float]) -> Workload:
    """The same requests, sent at these times."""
    requests = tuple(
        replace(request, offset=offset)
        for request, offset in zip(workload.requests, offsets, strict=True)
    )
    return replace(workload, requests=requests)
