"""When to stop asking a tier, and when to try it again. Pure logic: time is passed in.

    CLOSED     in use. `failures` of them within `window` seconds open it.
    OPEN       off, for a cool-down that grows by `backoff` each time it is followed by a failure
    PROBING    the cool-down is over and a probe is under way; still off
    HALF_OPEN  the probe went well: in use again, but one failure opens it, one success closes it

A probe costs no request anything: the mover sends it by itself.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from stepwell.base.hierarchy import TierHealth, TierName


class BreakerState(enum.Enum):
    """See the module's docstring."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerConfig:
    """Times in seconds. ValueError if a number makes no sense."""

    failures: int = 5
    window: float = 10.0
    cooldown: float = 1.0
    max_cooldown: float = 60.0
    backoff: float = 2.0

    def __post_init__(self) -> None:
        if self.failures < 1 or self.window <= 0 or self.backoff < 1:
            raise ValueError("failures >= 1, window > 0 and backoff >= 1 are needed")
        if not 0 < self.cooldown <= self.max_cooldown:
            raise ValueError("0 < cooldown <= max_cooldown is needed")


class Breaker:
    """One tier's. Each method that can change whether the tier is in use returns the event that
    says so, or None. Not thread-safe: the mover's lock guards it."""

    def __init__(self, tier: TierName, config: BreakerConfig | None = None) -> None:
        self._tier = tier
        self._config = config or BreakerConfig()
        self._state = BreakerState.CLOSED
        self._failures: deque[float] = deque()
        self._cooldown = self._config.cooldown
        self._probe_at = 0.0
        self.because = ""

    @property
    def state(self) -> BreakerState:
        """Where it stands."""
        return self._state

    @property
    def in_use(self) -> bool:
        """Whether orders may go to the tier."""
        return self._state in (BreakerState.CLOSED, BreakerState.HALF_OPEN)

    @property
    def next_probe(self) -> float | None:
        """When a probe is due, None if none is."""
        return self._probe_at if self._state is BreakerState.OPEN else None

    def success(self) -> None:
        """A transfer went well (a tier that answers "I do not have it" is well)."""
        if self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.CLOSED
            self._cooldown = self._config.cooldown
            self._failures.clear()

    def failure(self, now: float, because: str) -> TierHealth | None:
        """A transfer failed, returned damaged bytes or was not done in time."""
        if self._state is BreakerState.HALF_OPEN:
            return self._reopen(now, because)
        if self._state is not BreakerState.CLOSED:
            return None
        self._failures.append(now)
        while self._failures[0] <= now - self._config.window:
            self._failures.popleft()
        if len(self._failures) < self._config.failures:
            return None
        count = len(self._failures)
        return self._open(now, f"{count} failures in {self._config.window:g} s, last: {because}")

    def trip(self, now: float, because: str) -> TierHealth | None:
        """Open at once: the tier hangs."""
        if self._state is BreakerState.HALF_OPEN:
            return self._reopen(now, because)
        return self._open(now, because) if self._state is BreakerState.CLOSED else None

    def probe_started(self) -> None:
        """A due probe is on its way."""
        assert self._state is BreakerState.OPEN
        self._state = BreakerState.PROBING

    def probe_succeeded(self, now: float) -> TierHealth | None:
        """The tier answers again: on trial."""
        assert self._state is BreakerState.PROBING
        self._state = BreakerState.HALF_OPEN
        return TierHealth(tier=self._tier, now=now, healthy=True, because="a probe was answered")

    def probe_failed(self, now: float, because: str) -> None:
        """Still off, and for longer."""
        assert self._state is BreakerState.PROBING
        self._lengthen()
        self._off(now, because)

    def _reopen(self, now: float, because: str) -> TierHealth:
        self._lengthen()
        return self._open(now, because)

    def _open(self, now: float, because: str) -> TierHealth:
        self._off(now, because)
        return TierHealth(tier=self._tier, now=now, healthy=False, because=because)

    def _off(self, now: float, because: str) -> None:
        self._state = BreakerState.OPEN
        self._probe_at = now + self._cooldown
        self._failures.clear()
        self.because = because

    def _lengthen(self) -> None:
        config = self._config
        self._cooldown = min(self._cooldown * config.backoff, config.max_cooldown)
