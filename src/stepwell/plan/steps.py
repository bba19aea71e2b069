"""One lever of a recommendation, and how two deployments compare."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stepwell.plan.roofline import Efficiency
from stepwell.plan.serving import Served, serve
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Slo, Workload

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
    """Users of one group, with and without objectives, at the likely efficiency."""

    within: float
    free: float

    @classmethod
    def of(cls, setup: Setup, workload: Workload) -> Score:
        """Of a deployment."""
        within = serve(setup, workload, Efficiency.LIKELY)
        free = serve(setup, without_objectives(workload), Efficiency.LIKELY)
        return cls(within.users if within else 0.0, free.users if free else 0.0)

    def is_worth(self, before: Score) -> bool:
        """Whether a lever with a risk gains enough."""
        if before.within or self.within:
            return self.within >= _WORTH * before.within
        return self.free >= _WORTH * before.free


def change(before: Score, after: Score) -> str:
    """For people; empty where nothing changes."""
    if before.within or after.within:
        a, b, what = before.within, after.within, "users within the objectives"
    else:
        a, b, what = before.free, after.free, "users, none within the objectives"
    return "" if round(a) == round(b) else f"{a:.0f} → {b:.0f} {what}"


def without_objectives(workload: Workload) -> Workload:
    """The same for users who wait as long as it takes."""
    return replace(workload, slo=Slo())


def best_of(setup: Setup, workload: Workload) -> Served | None:
    """Within the objectives, or without them where they cannot be met."""
    found = serve(setup, workload, Efficiency.LIKELY)
    return found or serve(setup, without_objectives(workload), Efficiency.LIKELY)
