"""Requests and tokens per minute of each tenant, as leaky accounts.

An account starts full with one minute's allowance and refills evenly. Prompt tokens are charged
when a request is admitted, output tokens when it ends (the account may then go below zero, which
the next request waits out). Time is passed in, in seconds on the monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stepwell.base.errors import RateLimited


class Resource(Enum):
    """What an account counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"


class RateLimitedFor(RateLimited):
    """RateLimited that knows how long to wait: `seconds`."""

    def __init__(self, message: str, *, hint: str, seconds: float) -> None:
        super().__init__(message, hint=hint)
        self.seconds = seconds


@dataclass(slots=True)
class _Account:
    level: float
    refilled: float


class RateLimiter:
    """Accounts of all tenants. Their number is bounded by the configured keys.

    A limit of 0 means none. Not thread-safe: it belongs to the event loop.
    """

    def __init__(self, *, requests_per_minute: int, tokens_per_minute: int) -> None:
        self._limits = {
            Resource.REQUESTS: requests_per_minute,
            Resource.TOKENS: tokens_per_minute,
        }
        self._accounts: dict[tuple[str, Resource], _Account] = {}

    def admit(self, tenant: str, *, resource: Resource, amount: int, now: float) -> None:
        """Charge `amount`, or raise RateLimitedFor and charge nothing.

        An amount above the whole allowance is admitted when the account is full, as it could
        never be admitted otherwise.
        """
        limit = self._limits[resource]
        if not limit:
            return
        account = self._refill(tenant, resource, now=now)
        missing = min(amount, limit) - account.level
        if missing > 1e-9:
            seconds = missing * 60.0 / limit
            raise RateLimitedFor(
                f"limit of {limit} {resource.value} per minute reached.",
                hint=f"Try again in {seconds:.0f} s.",
                seconds=seconds,
            )
        account.level -= amount

    def charge(self, tenant: str, *, resource: Resource, amount: int, now: float) -> None:
        """Book `amount` after the fact."""
        if self._limits[resource]:
            self._refill(tenant, resource, now=now).level -= amount

    def _refill(self, tenant: str, resource: Resource, *, now: float) -> _Account:
        limit = float(self._limits[resource])
        account = self._accounts.setdefault((tenant, resource), _Account(limit, now))
        gained = (now - account.refilled) * limit / 60.0
        account.level = min(limit, account.level + gained)
        account.refilled = now
        return account
