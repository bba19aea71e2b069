"""What every part of the doctor says: a symptom, why it is there, and what to do about it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


class Severity(enum.Enum):
    """HIGH: users feel it now, or soon will. MEDIUM: time or memory is lost. LOW: a remark, such
    as a number that the server does not report."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`code` is stable, for programs. `symptom`: what is seen. `diagnosis`: why. `action`: what to
    change. `evidence`: the numbers that prove it, by name, units in the name.

    `gain`: what the action is expected to bring, in words. `gain_share`: the same as a share, from
    0 to 1, of the time, throughput or memory that it concerns; findings are ordered by it.
    """

    code: str
    title: str
    symptom: str
    diagnosis: str
    action: str
    evidence: Mapping[str, float | str] = field(default_factory=dict)
    gain: str = ""
    gain_share: float = 0.0
    severity: Severity = Severity.MEDIUM

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "title": self.title,
            "symptom": self.symptom,
            "diagnosis": self.diagnosis,
            "action": self.action,
            "evidence": dict(self.evidence),
            "gain": self.gain,
            "gain_share": self.gain_share,
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Largest gain first; among equals by severity, then by code."""
    ranks = {severity: rank for rank, severity in enumerate(Severity)}
    return sorted(findings, key=lambda f: (-f.gain_share, ranks[f.severity], f.code))
