"""One look at a server: its page as quantities. What the page does not say is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.doctor.alias import Engine, Source, aliases, first_present
from stepwell.doctor.page import Histogram, Page
from stepwell.doctor.quantity import Kind, Quantity

_TIER = "stepwell_tier_"
_LMCACHE_TIERS = {
    "host": ("lmcache:local_cache_usage", "lmcache_mp_l1_memory_usage_bytes"),
    "disk": ("lmcache:local_storage_usage",),
    "remote": ("lmcache:remote_cache_usage",),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """`at`: seconds on the monotonic clock. `uptime`: seconds since the process started, None where
    it does not tell. `tiers`: measures of each lower tier, by name (bytes
    `used` and `capacity`, `healthy`, `loaded_bytes`, `stored_bytes`, `failures`, `chunks`,
    `load_seconds` ...), as far as reported."""

    at: float
    engine: Engine
    values: Mapping[Quantity, float] = field(default_factory=dict)
    histograms: Mapping[Quantity, Histogram] = field(default_factory=dict)
    tiers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    broken_lines: int = 0
    uptime: float | None = None


def read(page: Page, engine: Engine, *, at: float, wall: float | None = None) -> Reading:
    """Every quantity that is on the page. `wall`: seconds of the epoch, where it was read now."""
    values: dict[Quantity, float] = {}
    histograms: dict[Quantity, Histogram] = {}
    for quantity, sources in aliases(engine, page).items():
        source = first_present(sources, page)
        if source is None:
            continue
        if quantity.kind is Kind.HISTOGRAM:
            histogram = page.histogram(source.name, source.where)
            if histogram is not None:
                histograms[quantity] = histogram
        else:
            value = _value(page, source, worst=quantity.kind is Kind.WORST)
            if value is not None:
                values[quantity] = value
    started = values.get(Quantity.START_TIME)
    uptime = wall - started if wall is not None and started is not None else None
    return Reading(at, engine, values, histograms, _tiers(page), page.broken, uptime)


def _value(page: Page, source: Source, *, worst: bool) -> float | None:
    if source.name not in page:
        return source.absent
    rows = page.find(source.name, source.where)
    if source.label:
        found = [_label(labels, source) for labels, _ in rows]
        numbers = [n for n in found if n is not None]
    else:
        numbers = [value for _, value in rows]
        if not numbers and source.where:
            return 0.0  # the name is there, but not for these labels: no such event yet
    if not numbers:
        return None
    return (max(numbers) if worst else sum(numbers)) * source.scale


def _label(labels: Mapping[str, str], source: Source) -> float | None:
    """`True` is 1, `False` is 0, text that is no number is unknown."""
    product = 1.0
    for name in (source.label, source.times):
        if not name:
            continue
        text = labels.get(name, "")
        if text in ("True", "False"):
            product *= float(text == "True")
            continue
        try:
            product *= float(text)
        except ValueError:
            return None
    return product


def _tiers(page: Page) -> dict[str, dict[str, float]]:
    tiers: dict[str, dict[str, float]] = {}
    for name, rows in page.samples.items():
        if not name.startswith(_TIER):
            continue
        for labels, value in rows:
            if "tier" in labels:
                measure = labels.get("kind") or name.removeprefix(_TIER)
                tiers.setdefault(labels["tier"], {})[measure] = value
    for tier, names in _LMCACHE_TIERS.items():
        for name in names:
            if name in page:
                used = sum(value for _, value in page.find(name))
                tiers.setdefault(tier, {})["used"] = used
    host = "sglang:hicache_host_used_tokens"
    if host in page:
        tiers["host"] = {
            "used_tokens": sum(v for _, v in page.find(host)),
            "capacity_tokens": sum(v for _, v in page.find("sglang:hicache_host_total_tokens")),
        }
    return tiers
