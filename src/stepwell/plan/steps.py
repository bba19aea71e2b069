"""One lever of a recommendation, and how two deployments compare."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stepwell.plan.roofline import Efficiency
from stepwell.plan.serving import Served, serve
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Slo, Workload

_STRETCHES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0, math.inf)
_WORTH = 1.1  # a lever with a risk must serve this many times the users


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One lever. `users_*`: within the objectives, on one group of devices, likely."""

    lever: str
    choice: str
    is_taken: bool
    gain: str
    cost: str
    risk: str
    users_before: float
    users_after: float

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "lever": self.lever,
            "choice": self.choice,
            "taken": self.is_taken,
            "gain": self.gain,
            "cost": self.cost,
            "risk": self.risk,
            "users_before": round(self.users_before, 1),
            "users_after": round(self.users_after, 1),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Users of one group at the likely efficiency, and by how many times their objectives must be
    stretched for it: 1.0 is within them."""

    stretch: float
    users: float

    @classmethod
    def of(cls, setup: Setup, workload: Workload) -> Score:
        """Of a deployment; no users where nothing fits."""
        found, stretch = best_of(setup, workload)
        return cls(stretch, found.users if found else 0.0)

    @property
    def within(self) -> float:
        """Users within the objectives."""
        return self.users if self.stretch == 1.0 else 0.0

    def is_worth(self, before: Score) -> bool:
        """Whether a lever with a risk gains enough."""
        if self.stretch != before.stretch:
            return self.stretch < before.stretch
        return self.users >= _WORTH * before.users


def change(before: Score, after: Score) -> str:
    """For people; empty where nothing changes."""
    if before.within or after.within:
        a, b, what = before.within, after.within, "users within the objectives"
    elif before.stretch != after.stretch:
        return f"objectives missed {_times(before.stretch)}, then {_times(after.stretch)}"
    else:
        a, b = before.users, after.users
        what = f"users, objectives missed {_times(after.stretch)}"
    return "" if round(a) == round(b) else f"{a:.0f} → {b:.0f} {what}"


def _times(stretch: float) -> str:
    return "by far" if math.isinf(stretch) else f"by a factor of {stretch:g}"


def best_of(setup: Setup, workload: Workload) -> tuple[Served | None, float]:
    """The most users within the objectives, or within the least stretch of them that can be met;
    and that stretch. None where not even one sequence fits."""
    for stretch in _STRETCHES:
        found = serve(setup, _stretched(workload, stretch), Efficiency.LIKELY)
        if found is not None:
            return found, stretch
    return None, math.inf


def _stretched(workload: Workload, stretch: float) -> Workload:
    if math.isinf(stretch):
        return replace(workload, slo=Slo())
    slo = Slo(ttft=workload.slo.ttft * stretch, tpot=workload.slo.tpot * stretch)
    return replace(workload, slo=slo)
