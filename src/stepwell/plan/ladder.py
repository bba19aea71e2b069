"""The levers that are pulled so far, and how the next one is judged."""

from __future__ import annotations

from stepwell.plan.roofline import Roofline
from stepwell.plan.setup import Setup
from stepwell.plan.steps import Score, Step, change
from stepwell.plan.workload import Workload


class Ladder:
    """The setup so far, and how it came about."""

    def __init__(self, setup: Setup, workload: Workload) -> None:
        self.setup, self.workload = setup, workload
        self.steps: list[Step] = []
        self.score = Score.of(setup, workload)

    def take(
        self,
        lever: str,
        choice: str,
        after: Setup,
        *,
        gain: str,
        cost: str,
        risk: str,
        is_risky: bool = False,
    ) -> None:
        """Take the lever unless it has a price and gains too little."""
        found = Score.of(after, self.workload)
        before = self.score
        enough = bool(self.workload.users) and before.within >= self.workload.users
        if is_risky and enough:
            self.add(lever, choice, after, taken=False, cost=cost, risk=risk,
                      gain=f"not needed: {before.within:.0f} users are served already")  # fmt: skip
        elif is_risky and not found.is_worth(before):
            self.add(lever, choice, after, taken=False, cost=cost, risk=risk,
                      gain=f"gains too little: {self.users_text(after)}")  # fmt: skip
        else:
            self.add(lever, choice, after, gain=gain, cost=cost, risk=risk)

    def add(
        self,
        lever: str,
        choice: str,
        after: Setup,
        *,
        gain: str,
        cost: str,
        risk: str,
        taken: bool = True,
        before: float | None = None,
    ) -> None:
        """Note the lever, pulled or not. `before`: users without it, where that is not what the
        levers so far give."""
        start, found = self.score, Score.of(after, self.workload)
        if taken:
            self.setup, self.score = after, found
            said = change(start, found)
            gain = f"{gain}; {said}" if said else gain
        self.steps.append(
            Step(
                lever=lever,
                choice=choice,
                is_taken=taken,
                gain=gain,
                cost=cost,
                risk=risk,
                users_before=start.within if before is None else before,
                users_after=found.within if taken else start.within,
            )
        )

    def copies(self) -> float:
        """On how many devices each K and V lies."""
        return Roofline(self.setup.spec, self.setup.device, self.setup.shape).copies

    def users_text(self, setup: Setup) -> str:
        """What another setup would change."""
        return change(self.score, Score.of(setup, self.workload)) or "no change"

    def step_seconds(self, setup: Setup) -> float:
        """Least seconds of a step of one sequence."""
        line = Roofline(setup.spec, setup.device, setup.shape)
        return line.seconds(line.decode(batch=1, context=self.workload.context))
