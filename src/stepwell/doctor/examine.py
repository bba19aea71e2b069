"""From a window to a report: the account, and every rule's finding, largest gain first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stepwell.doctor import rules_flow, rules_pool, rules_reuse, rules_tiers
from stepwell.doctor.account import Account, account
from stepwell.doctor.case import Case
from stepwell.doctor.finding import Finding, Severity, ordered

Rule = Callable[[Case], Finding | None]

RULES: tuple[Rule, ...] = (
    rules_flow.restarted,
    rules_flow.engine_stalled,
    rules_flow.stuck_request,
    rules_flow.errors,
    rules_pool.pool_too_small,
    rules_flow.overload,
    rules_flow.prefill_bound,
    rules_pool.oversize_context,
    rules_pool.requests_refused,
    rules_pool.fragmentation,
    rules_reuse.no_prefix_reuse,
    rules_reuse.idle_sessions,
    rules_reuse.recomputed_context,
    rules_tiers.sick_tier,
    rules_tiers.tier_never_hit,
    rules_flow.metrics_missing,
)


@dataclass(frozen=True, slots=True)
class Report:
    """One examination."""

    case: Case
    account: Account
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """No finding of high severity."""
        return all(finding.severity is not Severity.HIGH for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        window, card = self.case.window, self.case.card
        return {
            "engine": self.case.engine.value,
            "model": card.name,
            "max_model_len": card.max_model_len,
            "device": self.case.device.name if self.case.device else None,
            "window_seconds": window.seconds,
            "readings": len(window.readings),
            "missed_looks": window.missed,
            "restarts": window.restarts,
            "healthy": self.healthy,
            **self.account.as_dict(),
            "tiers": {name: dict(tier) for name, tier in window.readings[-1].tiers.items()},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def examine(case: Case) -> Report:
    """What the window says."""
    found = (rule(case) for rule in RULES)
    return Report(case, account(case), tuple(ordered(f for f in found if f is not None)))
