"""What a body says about its context in the lower tiers: five fields of Stepwell's own.

They change where context is kept and for how long, never a token of the reply.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.base.errors import InvalidParameter
from stepwell.base.hierarchy import WorkloadClass
from stepwell.server.fields import Fields, check_text

CONTEXT_FIELDS = frozenset({"session_id", "workload", "cache_ttl", "cache_pin", "cache_store"})
LONGEST_SESSION_ID = 256
"""Characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextWishes:
    """As `GenerationRequest` has them."""

    session_id: str | None
    workload: WorkloadClass | None
    ttl: float | None
    pin: bool
    store: bool


def read_context(fields: Fields) -> ContextWishes:
    """The fields of a body. Raises InvalidParameter."""
    return ContextWishes(
        session_id=_session_id(fields),
        workload=_workload(fields),
        ttl=_ttl(fields),
        pin=fields.boolean("cache_pin", False),
        store=fields.boolean("cache_store", True),
    )


def _session_id(fields: Fields) -> str | None:
    if "session_id" not in fields:
        return None
    name = check_text(fields.string("session_id", ""), where="session_id")
    if not 1 <= len(name) <= LONGEST_SESSION_ID:
        raise InvalidParameter(
            f"session_id has {len(name)} characters.",
            hint=f"It must have 1 to {LONGEST_SESSION_ID}.",
            param="session_id",
        )
    return name


def _workload(fields: Fields) -> WorkloadClass | None:
    if "workload" not in fields:
        return None
    name = fields.get("workload")
    for kind in WorkloadClass:
        if kind.value == name:
            return kind
    valid = ", ".join(kind.value for kind in WorkloadClass)
    shown = repr(name)[:60]
    raise InvalidParameter(f"workload is {shown}.", hint=f"Valid: {valid}.", param="workload")


def _ttl(fields: Fields) -> float | None:
    if "cache_ttl" not in fields:
        return None
    seconds = fields.number("cache_ttl", 0.0)
    if seconds <= 0:
        raise InvalidParameter(
            f"cache_ttl is {seconds:g}.",
            hint="It must be more than 0 seconds; cache_store=false keeps nothing.",
            param="cache_ttl",
        )
    return seconds
