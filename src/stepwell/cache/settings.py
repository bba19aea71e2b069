"""What the hierarchy is built from: tiers, limits and the defaults of each workload class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.base.hierarchy import TierName, WorkloadClass
from stepwell.cache.plan import PlanSettings

KINDS = tuple(WorkloadClass)
"""A class's index in columns and in stored metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierSpec:
    """One lower tier. `capacity_bytes` 0: no limit of ours (somebody else bounds it). `shared`:
    other processes put and take chunks too, so the books do not know all that it has and never
    order evictions there. `persistent`: it survives a restart. `lossy`: its codec changes numbers,
    except where an order says `exact`."""

    name: TierName
    capacity_bytes: int
    shared: bool = False
    persistent: bool = False
    lossy: bool = False


PLACEMENT: Mapping[WorkloadClass, tuple[TierName, ...]] = {
    WorkloadClass.CHAT: (TierName.HOST,),
    WorkloadClass.DOCUMENT: (TierName.HOST, TierName.REMOTE),
    WorkloadClass.CODE: (TierName.HOST, TierName.DISK),
    WorkloadClass.BATCH: (TierName.DISK,),
}
"""Where the chunks of a class go when its request ends. A tier that does not exist is left out; a
class left with none goes to the nearest tier below, else to the nearest above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchySettings:
    """Limits and choices.

    `max_ghosts`: forgotten chunks whose return is still recognized. `max_sessions`: sessions
    remembered. `max_shared_chunks`: chunks of a tier without a limit that the books remember.
    `moves_in_flight`: copies between lower tiers at a time. `clean_from`: share of a tier's
    capacity from which its next victims are copied down ahead of time. `clean_window`: victims
    looked at for it in one tick. `probe_seconds`: shortest time between probes of a tier that is
    not used; it doubles up to `probe_seconds_max`. `pin_share`: largest share of a tier that pins
    may protect, `tenant_pin_share` those of one tenant. `pin_seconds`: how long a pin lasts whose
    request gives no time to live; none lasts longer than `pin_seconds_max`. `ttl`: seconds by
    class; classes without an entry have none. `quota`: bytes by tenant and tier.
    `window_chunks`: the last chunks of a session, which lossy tiers hold exactly.
    """

    plan: PlanSettings = field(default_factory=PlanSettings)
    max_ghosts: int = 100_000
    max_sessions: int = 200_000
    max_shared_chunks: int = 500_000
    moves_in_flight: int = 16
    clean_from: float = 0.8
    clean_window: int = 64
    probe_seconds: float = 30.0
    probe_seconds_max: float = 600.0
    pin_share: float = 0.5
    tenant_pin_share: float = 0.25
    pin_seconds: float = 3600.0
    pin_seconds_max: float = 86400.0
    document_tokens: int = 8192
    window_chunks: int = 0
    promote_probability: float = 0.5
    ttl: Mapping[WorkloadClass, float] = field(default_factory=dict)
    quota: Mapping[str, Mapping[TierName, int]] = field(default_factory=dict)
