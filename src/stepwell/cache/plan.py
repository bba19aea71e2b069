"""The restore plan of one request: load, recompute, or both from both ends.

    NONE    compute everything that the device lacks
    LOAD    wait for the load, but no longer than `deadline`; then compute what is missing
    SPLIT   compute from the front while loading from the back; nothing waits, so a load that
            never comes costs no time (after Cake, ICML'25: fill from both ends)

A restore happens only where its *upper* estimate beats recomputing. LOAD is chosen only where the
load is likely to be done within `stall_share` of the seconds of recomputing, which is also its
deadline: if nothing at all arrives, the request has lost that share and no more.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from stepwell.base.decisions import Decision
from stepwell.base.hierarchy import TierName, WorkloadClass
from stepwell.cache.cost import PrefillCost, TransferCost


class RestoreMode(enum.Enum):
    """How the missing front of a prompt gets to the device."""

    NONE = "none"
    LOAD = "load"
    SPLIT = "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRequest:
    """What the brain sees of a request. `keys`: chunk keys of all full chunks of the prompt in
    chain order. `tokens`: prompt tokens. `device_chunks`: how many of the first are resident.
    `ttl`: seconds that its chunks may stay unused, None: as its class. `pin`: protect them for
    `ttl` seconds, or for a default time. `priority`: lower matters more (as in vLLM)."""

    request_id: str
    keys: Sequence[bytes]
    tokens: int
    device_chunks: int = 0
    tenant: str = ""
    session_id: str | None = None
    workload: WorkloadClass | None = None
    priority: int = 0
    ttl: float | None = None
    pin: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """Chunks [start, stop) of a chain come from `tier`."""

    tier: TierName
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """What to do for one request.

    `spans` in chain order cover [start, stop). In SPLIT, chunks [device_chunks, start) are computed
    meanwhile. `load_seconds`: expected for all spans. `recompute_seconds`: of the chunks that the
    spans cover. `deadline`: absolute seconds; of the whole load (LOAD) or of its last use (SPLIT).
    `probe`: a small load whose purpose is to measure. `known`: chunks whose keys are in the books.
    `available`: chunks from the front that the device or a healthy tier has.
    """

    request: ChainRequest
    mode: RestoreMode
    decision: Decision
    spans: tuple[Span, ...] = ()
    deadline: float = 0.0
    load_seconds: float = 0.0
    recompute_seconds: float = 0.0
    probe: bool = False
    known: int = 0
    available: int = 0

    @property
    def start(self) -> int:
        """First chunk that is loaded."""
        return self.spans[0].start if self.spans else self.request.device_chunks

    @property
    def stop(self) -> int:
        """One past the last chunk that is loaded."""
        return self.spans[-1].stop if self.spans else self.request.device_chunks


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """`stall_share`: largest share of the recompute seconds that a stalled load may cost.
    `least_gain`: least share of them that a restore must save. `probe_chunks`: size of a probe."""

    stall_share: float = 0.04
    least_gain: float = 0.05
    probe_chunks: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What `choose` needs beside the request: chunk `device_chunks + i` is in `tiers[i]` and has
    `sizes[i]` bytes there. `probe_due(tier)`: whether a measurement of a tier is overdue."""

    now: float
    chunk_tokens: int
    tiers: Sequence[int]
    sizes: Sequence[int]
    waiting_tokens: int
    known: int
    prefill: PrefillCost
    transfer: Mapping[TierName, TransferCost]
    probe_due: Callable[[TierName], bool]


def choose(request: ChainRequest, at: Situation, settings: PlanSettings) -> RestorePlan:
    """The plan. Pure. O(chunks) for the sums, O(spans * log chunks) for the choice."""
    first = request.device_chunks
    spans = _spans(at.tiers, first)
    if not spans:
        return _none(request, at, "no tier has the next chunk")
    unknown = [s.tier for s in spans if not at.transfer[s.tier].known]
    if unknown or not at.prefill.known:
        tier = unknown[0].name.lower() if unknown else "prefill"
        return _probe(request, at, spans, settings, f"nothing was measured yet ({tier})")
    best: _Option | None = None
    sums = [0, *accumulate(at.sizes)]
    for end in range(1, len(spans) + 1):
        option = _option(request, at, spans[:end], sums, settings)
        if option is not None and (best is None or option.gain > best.gain):
            best = option
    if best is not None:
        return _restore(request, at, best)
    due = [s for s in spans if at.probe_due(s.tier)]
    if due:
        return _probe(
            request, at, spans, settings, f"{due[0].tier.name.lower()} is due for a probe"
        )
    return _none(request, at, "recomputing is expected to be faster than any load")


@dataclass(frozen=True, slots=True)
class _Option:
    mode: RestoreMode
    spans: tuple[Span, ...]
    gain: float
    load: float
    recompute: float
    allowance: float


def _option(
    request: ChainRequest,
    at: Situation,
    spans: tuple[Span, ...],
    sums: Sequence[int],
    settings: PlanSettings,
) -> _Option | None:
    """The better of LOAD and SPLIT for these spans, None where neither pays."""
    first, stop = request.device_chunks, spans[-1].stop
    recompute = _compute(at, first, stop)
    upper, expected = _load(at, spans, sums, first)
    hidden = at.prefill.seconds(tokens=at.waiting_tokens, context=0) / 2.0
    allowance = settings.stall_share * recompute + hidden
    least = settings.least_gain * recompute
    likely = (upper + expected) / 2.0  # its loss is bounded anyway, so half the margin will do
    if likely <= allowance and recompute - max(0.0, upper - hidden) >= least:
        gain = recompute - max(0.0, expected - hidden)
        return _Option(RestoreMode.LOAD, spans, gain, expected, recompute, allowance)
    split = _split_point(at, spans, sums, first)
    if split >= stop:
        return None
    back = _from(spans, split)
    upper, expected = _load(at, back, sums, first)
    took = max(_compute(at, first, split), upper)
    if recompute - took < least:
        return None
    saved = _compute(at, split, stop)
    return _Option(RestoreMode.SPLIT, back, recompute - took, expected, saved, recompute)


def _split_point(at: Situation, spans: tuple[Span, ...], sums: Sequence[int], first: int) -> int:
    """The chunk where computing from the front meets loading from the back; at least one chunk
    is computed, because computing starts at once."""
    low, high = first + 1, spans[-1].stop
    while low < high:
        middle = (low + high) // 2
        upper, _ = _load(at, _from(spans, middle), sums, first)
        if _compute(at, first, middle) >= upper:
            high = middle
        else:
            low = middle + 1
    return low


def _restore(request: ChainRequest, at: Situation, option: _Option) -> RestorePlan:
    chunks = option.spans[-1].stop - option.spans[0].start
    where = "+".join(span.tier.name.lower() for span in option.spans)
    because = (
        f"{chunks} chunks from {where}: load {option.load:.4g} s against recompute "
        f"{option.recompute:.4g} s"
    )
    return RestorePlan(
        request=request, mode=option.mode, spans=option.spans, known=at.known,
        available=request.device_chunks + len(at.tiers),
        decision=Decision("restore", option.mode.value, because, option.load),
        deadline=at.now + option.allowance,
        load_seconds=option.load, recompute_seconds=option.recompute,
    )  # fmt: skip


def _probe(
    request: ChainRequest,
    at: Situation,
    spans: tuple[Span, ...],
    settings: PlanSettings,
    because: str,
) -> RestorePlan:
    """Load a few chunks from the back while computing from the front: it costs no time."""
    first = request.device_chunks
    span = next((s for s in spans if at.probe_due(s.tier)), None)
    if span is None:
        return _none(request, at, because)
    start = max(span.start, first + 1, span.stop - settings.probe_chunks)
    if start >= span.stop:
        return _none(request, at, because + "; too short for a probe")
    part = (Span(span.tier, start, span.stop),)
    sums = [0, *accumulate(at.sizes)]
    reach = _compute(at, first, span.stop)
    return RestorePlan(
        request=request, mode=RestoreMode.SPLIT, spans=part, probe=True, known=at.known,
        available=request.device_chunks + len(at.tiers),
        decision=Decision("restore", "probe", because, _load(at, part, sums, first)[1]),
        deadline=at.now + max(reach, 1.0),
        load_seconds=_load(at, part, sums, first)[1],
        recompute_seconds=_compute(at, start, span.stop),
    )  # fmt: skip


def _none(request: ChainRequest, at: Situation, because: str) -> RestorePlan:
    decision = Decision("restore", RestoreMode.NONE.value, because)
    return RestorePlan(
        request=request,
        mode=RestoreMode.NONE,
        decision=decision,
        known=at.known,
        available=request.device_chunks + len(at.tiers),
    )


def _spans(tiers: Sequence[int], first: int) -> tuple[Span, ...]:
    """Runs of equal tiers."""
    spans: list[Span] = []
    start = 0
    for i in range(1, len(tiers) + 1):
        if i == len(tiers) or tiers[i] != tiers[start]:
            spans.append(Span(TierName(tiers[start]), first + start, first + i))
            start = i
    return tuple(spans)


def _from(spans: tuple[Span, ...], start: int) -> tuple[Span, ...]:
    """What lies at or after chunk `start`."""
    return tuple(Span(s.tier, max(s.start, start), s.stop) for s in spans if s.stop > start)


def _load(
    at: Situation, spans: tuple[Span, ...], sums: Sequence[int], first: int
) -> tuple[float, float]:
    """(upper, expected) seconds; tiers work at the same time."""
    sizes: dict[TierName, int] = {}
    for span in spans:
        size = sums[span.stop - first] - sums[span.start - first]
        sizes[span.tier] = sizes.get(span.tier, 0) + size
    upper = expected = 0.0
    for tier, size in sizes.items():
        estimate = at.transfer[tier].estimate(size)
        upper, expected = max(upper, estimate.upper), max(expected, estimate.seconds)
    return upper, expected


def _compute(at: Situation, start: int, stop: int) -> float:
    """Seconds that chunks [start, stop) add to a prefill."""
    if stop <= start:
        return 0.0
    size = at.chunk_tokens
    return at.prefill.marginal(tokens=(stop - start) * size, context=start * size)
