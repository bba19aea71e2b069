"""The whole checklist, in the order in which it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.checklist import memory_checks, retention_checks, service_checks
from stepwell.doctor.checklist.evidence import Evidence
from stepwell.doctor.checklist.item import Item, Rule, Status, counts
from stepwell.doctor.finding import Finding, Severity

RULES: tuple[Rule, ...] = (
    service_checks.HEALTH, service_checks.METRICS, service_checks.MONITORED,
    service_checks.CACHING, service_checks.REUSE, service_checks.LIMITS, service_checks.KEYS,
    service_checks.VERSIONS, memory_checks.KV_PROFILED, memory_checks.TIERS,
    memory_checks.THRESHOLDS, memory_checks.BENCHMARKED, retention_checks.EVICTION,
    retention_checks.DISK_FLOOR,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Checklist:
    """Every item once."""

    items: tuple[Item, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many passed, failed, are unknown."""
        return counts(self.items)

    def findings(self) -> list[Finding]:
        """Those that failed, in the form that all parts of the doctor share."""
        return [
            Finding(
                code=item.code,
                title=f"not met: {item.title}",
                symptom=item.evidence,
                diagnosis=next(rule.how for rule in RULES if rule.code == item.code),
                action=item.action,
                evidence=item.numbers,
                severity=Severity.MEDIUM,
            )
            for item in self.items
            if item.status is Status.FAIL
        ]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "counts": dict(self.counts),
            "items": [item.as_dict() for item in self.items],
            "findings": [finding.as_dict() for finding in self.findings()],
        }


def check(evidence: Evidence) -> Checklist:
    """Judge what there is."""
    return Checklist(
        (
            *service_checks.check_service(evidence),
            *memory_checks.check_memory(evidence),
            *retention_checks.check_retention(evidence),
        )
    )
