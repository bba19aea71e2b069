"""What the rules look at: the window, what is known of the model and the device, the bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from stepwell.doctor.alias import Engine
from stepwell.doctor.fetch import ModelCard
from stepwell.doctor.page import Histogram
from stepwell.doctor.quantity import Quantity
from stepwell.doctor.thresholds import Thresholds
from stepwell.doctor.window import Window
from stepwell.hardware.devices import Device
from stepwell.plan.architecture import ModelSpec


@dataclass(frozen=True, slots=True)
class Share:
    """`part` of `whole`. `recent`: of the window, else since the server's start."""

    part: float
    whole: float
    recent: bool

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.part / self.whole

    @property
    def over(self) -> str:
        """In words."""
        return "in the window" if self.recent else "since the start"


@dataclass(frozen=True, slots=True)
class Case:
    """`model`, `device`: None where they are not known, and what needs them stays unknown."""

    window: Window
    card: ModelCard = field(default_factory=ModelCard)
    model: ModelSpec | None = None
    device: Device | None = None
    bounds: Thresholds = field(default_factory=Thresholds)

    @property
    def engine(self) -> Engine:
        """Whose server this is."""
        return self.window.engine

    @property
    def has_tiers(self) -> bool:
        """Whether anything lies below the device: a tier with a size or contents, or lookups."""
        found = self.window.readings[-1].tiers.values()
        if any(tier.get("capacity") or tier.get("used") or "capacity_tokens" in tier
               for tier in found):  # fmt: skip
            return True
        return bool(self.window.last(Quantity.EXTERNAL_QUERIES))

    def share(self, part: Quantity, whole: Quantity, *, least: float) -> Share | None:
        """Of two counters, over the window if it has enough of `whole`, else since the start."""
        gained = self.window.gained(whole)
        if gained is not None and gained >= least:
            return _share(self.window.gained(part), gained, recent=True)
        total = self.window.last(whole)
        if total is not None and total >= least:
            return _share(self.window.last(part), total, recent=False)
        return None

    def values(self, quantity: Quantity) -> tuple[Histogram, bool] | None:
        """A histogram of the window (True) if that has enough, else since the start (False)."""
        recent = self.window.recent(quantity)
        if recent is not None and recent.count >= self.bounds.least_requests:
            return recent, True
        whole = self.window.whole(quantity)
        return (whole, False) if whole is not None and whole.count > 0 else None

    def mean(self, quantity: Quantity) -> float | None:
        """Mean of a histogram's values, of the window if it has any, else since the start."""
        recent, whole = self.window.recent(quantity), self.window.whole(quantity)
        if recent is not None and recent.count > 0:
            return recent.mean
        return whole.mean if whole is not None else None

    @property
    def prefill_share(self) -> float | None:
        """Prefill's share of the computing time of the requests that ended in the window."""
        prefill = self.window.recent(Quantity.PREFILL_TIME)
        decode = self.window.recent(Quantity.DECODE_TIME)
        if prefill is None or decode is None or prefill.total + decode.total <= 0:
            return None
        return prefill.total / (prefill.total + decode.total)

    @property
    def waiting_share(self) -> float:
        """Waiting over all requests in the system, mean of the window."""
        waiting = self.window.mean(Quantity.WAITING) or 0.0
        running = self.window.mean(Quantity.RUNNING) or 0.0
        return waiting / (waiting + running) if waiting else 0.0

    @property
    def next_request_share(self) -> float:
        """Share of the pool that a request of mean length takes, in whole blocks; 0 where
        unknown."""
        capacity = self.window.last(Quantity.KV_CAPACITY)
        prompt = self.mean(Quantity.PROMPT_LENGTH)
        block = self.window.last(Quantity.BLOCK_TOKENS) or 1.0
        return math.ceil(prompt / block) * block / capacity if capacity and prompt else 0.0

    @property
    def reserved_share(self) -> float:
        """Share of the pool that is kept for running requests to grow into: Stepwell admits none
        that would take the last free block of each; 0 for other engines, which preempt."""
        capacity = self.window.last(Quantity.KV_CAPACITY)
        block = self.window.last(Quantity.BLOCK_TOKENS)
        if self.engine is not Engine.STEPWELL or not capacity or not block:
            return 0.0
        return (self.window.mean(Quantity.RUNNING) or 0.0) * block / capacity

    @property
    def pool_is_full(self) -> bool:
        """Whether the next request of mean length would not fit, mean of the window."""
        usage = self.window.mean(Quantity.KV_USAGE)
        if usage is None:
            return False
        return usage + self.next_request_share + self.reserved_share >= self.bounds.pool_full


def _share(part: float | None, whole: float, *, recent: bool) -> Share | None:
    return Share(part, whole, recent) if part is not None and whole > 0 else None
