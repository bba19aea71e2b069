"""Items about how long and how much is kept: eviction, the disk's floor."""

from __future__ import annotations

import shutil
from pathlib import Path

from stepwell.base.config import Config
from stepwell.base.units import format_bytes, format_seconds, parse_bytes
from stepwell.doctor.alias import Engine
from stepwell.doctor.checklist.evidence import Evidence, Live, capacity
from stepwell.doctor.checklist.item import Item, Rule, either, first_known

EVICTION = Rule(
    "session_eviction", "session eviction bounded (capacity, time to live)",
    "Passes where each tier that is ours has a capacity and the network tier forgets by time.",
)  # fmt: skip
DISK_FLOOR = Rule(
    "disk_floor", "disk tier leaves room on its filesystem",
    "Passes without a disk tier, or where the filesystem keeps more free than "
    "tiers.disk_free_floor, which is at least 1 GiB.",
)  # fmt: skip
_GIB = 1 << 30


def check_retention(evidence: Evidence) -> list[Item]:
    """All items of this module."""
    live, config = evidence.live, evidence.config
    return [
        first_known(*either(EVICTION, _eviction_live(live), _eviction_config(config))),
        first_known(*either(DISK_FLOOR, _floor_config(config), _floor_live(live))),
    ]


def _eviction_live(live: Live | None) -> Item | None:
    if live is None:
        return None
    tiers = live.reading.tiers
    if not tiers:
        return EVICTION.unknown("no tier is reported", "Give the settings with --config.")
    open_ended = [n for n, m in tiers.items() if not m.get("capacity") and n != "remote"]
    if live.engine is not Engine.STEPWELL:
        return EVICTION.unknown(
            f"{live.engine.value} does not report limits of sessions", "See its settings."
        )
    if open_ended:
        return EVICTION.failed(f"without a capacity: {', '.join(open_ended)}", "Set one.")
    sessions = sum(value for _, value in live.page.find("stepwell_tier_sessions"))
    expired = sum(value for _, value in live.page.find("stepwell_tier_expired"))
    bounds = ", ".join(f"{name} {capacity(measures)}" for name, measures in tiers.items())
    return EVICTION.passed(
        f"bounded: {bounds}; {sessions:,.0f} sessions remembered, {expired:,.0f} expired by time"
    )


def _eviction_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    tiers = config.tiers
    if not (parse_bytes(tiers.host) or tiers.disk or tiers.remote):
        return EVICTION.passed("no tiers: only the pool keeps context, least recently used first")
    bounds = [f"host {tiers.host}"] if parse_bytes(tiers.host) else []
    bounds += [f"disk {tiers.disk_capacity}"] if tiers.disk else []
    bounds += [f"network {format_seconds(tiers.remote_ttl)}"] if tiers.remote else []
    return EVICTION.passed(
        f"policy {tiers.policy}; {', '.join(bounds)}; a request's cache_ttl bounds its session"
    )


def _floor_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    if not config.tiers.disk:
        return DISK_FLOOR.passed("the settings name no disk tier")
    floor = parse_bytes(config.tiers.disk_free_floor)
    if floor < _GIB:
        return DISK_FLOOR.failed(f"tiers.disk_free_floor is {format_bytes(floor)}",
                                 "Set it to 1GiB or more.", floor_bytes=floor)  # fmt: skip
    folder = Path(config.tiers.disk).expanduser()
    existing = next((part for part in (folder, *folder.parents) if part.exists()), None)
    if existing is None:
        return DISK_FLOOR.unknown(f"{folder} is not on this machine", "Run it where it serves.")
    free = shutil.disk_usage(existing).free
    told = f"{format_bytes(free)} are free, the floor is {format_bytes(floor)}"
    if free <= floor:
        return DISK_FLOOR.failed(told, "Free some, or move tiers.disk.", free_bytes=free)
    return DISK_FLOOR.passed(told, free_bytes=free, floor_bytes=floor)


def _floor_live(live: Live | None) -> Item | None:
    if live is None:
        return None
    if "disk" in live.reading.tiers:
        return DISK_FLOOR.unknown("the server does not report its floor", "Give --config.")
    if live.engine is Engine.STEPWELL:
        return DISK_FLOOR.passed("the server reports no disk tier")
    return DISK_FLOOR.unknown(
        f"{live.engine.value} does not report disk tiers", "See its settings."
    )
