"""What `stepwell cache stats` shows: the lower tiers' part of a server's /metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from stepwell.base.units import format_bytes, format_seconds

Row = tuple[str, ...]
TIER_COLUMNS = (
    "tier", "healthy", "used", "capacity", "chunks", "loaded", "stored", "evicted", "refused",
    "kept exact",
    "failures",
)  # fmt: skip
_OWN_LABELS = ("model_name", "engine")


@dataclass(frozen=True, slots=True)
class TierReport:
    """`tiers`: by name, then by measure. `totals`: of all tiers. `shadows`: hit rate by
    policy, then by scale."""

    tiers: Mapping[str, Mapping[str, float]]
    restores: Mapping[str, float]
    totals: Mapping[str, float]
    shadows: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`. Bytes, chunks, seconds and counts since the server's start."""
        return {
            "tiers": self.tiers,
            "restores": self.restores,
            "totals": self.totals,
            "shadow_hit_rates": self.shadows,
        }

    def tier_rows(self) -> list[Row]:
        """As TIER_COLUMNS."""
        return [_tier_row(name, measures) for name, measures in self.tiers.items()]

    def total_rows(self) -> list[Row]:
        """(what, value) of what concerns no single tier."""
        shown: list[Row] = []
        plans = ", ".join(f"{count:.0f} {mode}" for mode, count in self.restores.items())
        shown.append(("restore plans", plans or "none"))
        for name, value in self.totals.items():
            text = format_seconds(value) if "seconds" in name else f"{value:.0f}"
            shown.append((name.replace("_", " "), text))
        for policy, rates in self.shadows.items():
            times = ", ".join(f"{scale}x" for scale in rates)
            shown.append(
                (f"hit rate of {policy} with {times} the room",
                 ", ".join(f"{rate:.1%}" for rate in rates.values()))
            )  # fmt: skip
        return shown


def read_report(page: str) -> TierReport:
    """The report of a metrics page; without tiers where the server has none."""
    tiers: dict[str, dict[str, float]] = {}
    restores: dict[str, float] = {}
    totals: dict[str, float] = {}
    shadows: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name.removeprefix("stepwell_").removesuffix("_total")
            labels = {k: v for k, v in sample.labels.items() if k not in _OWN_LABELS}
            if "tier" in labels:
                measures = tiers.setdefault(labels["tier"], {})
                measures[labels.get("kind") or name.removeprefix("tier_")] = sample.value
            elif name == "restore" and "mode" in labels:
                restores[labels["mode"]] = sample.value
            elif name == "shadow_hit_rate":
                shadows.setdefault(labels["policy"], {})[labels["scale"]] = sample.value
            elif not labels and name.startswith(("restore", "tier_")):
                if not sample.name.endswith("_created"):
                    totals[name.removeprefix("tier_")] = sample.value
    return TierReport(tiers=tiers, restores=restores, totals=totals, shadows=shadows)


def _tier_row(name: str, measures: Mapping[str, float]) -> Row:
    def size(key: str) -> str:
        return format_bytes(int(measures.get(key, 0)))

    def count(key: str) -> str:
        return f"{measures.get(key, 0):.0f}"

    return (
        name,
        "yes" if measures.get("healthy") else "no",
        size("used"),
        size("capacity") if measures.get("capacity") else "shared",
        count("chunks"),
        size("loaded_bytes"),
        size("stored_bytes"),
        count("evictions"),
        count("refused"),
        count("kept_exact"),
        count("failures"),
    )
