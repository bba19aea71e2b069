"""`stepwell serve` with something broken in it: `python -m tests.doctor.faulty_server FAULT ARGS`.

slow-tier      every lower tier moves 2 MB/s after its first 30 transfers
failing-tier   reads of every lower tier fail after its first 30 transfers
starved        a request with max_tokens 777 is admitted and gets no steps after its first
hanging        a forward pass of a prompt of exactly 333 tokens never returns
failing-steps  a forward pass with a prompt of exactly 333 tokens raises
"""

from __future__ import annotations

import sys
import threading
from typing import Any

STARVED, MARKED = 777, 333
_WELL = 30


def slow_tier() -> None:
    _break_tiers(bytes_per_second=2e6)


def failing_tier() -> None:
    _break_tiers(fail_read=1.0)


def starved() -> None:
    from stepwell.engine.scheduler import Scheduler

    schedule = Scheduler.schedule

    def without(self: Scheduler, now: float) -> Any:
        plan = schedule(self, now)
        return [
            part
            for part in plan
            if not (part.sequence.sampling.max_tokens == STARVED and part.sequence.output_length)
        ]

    Scheduler.schedule = without  # type: ignore[method-assign]


def hanging() -> None:
    _when_marked(lambda: threading.Event().wait())


def failing_steps() -> None:
    def fail() -> None:
        raise RuntimeError("planted")

    _when_marked(fail)


def _when_marked(act: Any) -> None:
    from stepwell.engine.runner import ModelRunner

    run = ModelRunner.run

    def broken(self: ModelRunner, plan: Any, cache: Any) -> Any:
        if any(part.sequence.prompt_length == MARKED for part in plan):
            act()
        return run(self, plan, cache)

    ModelRunner.run = broken  # type: ignore[method-assign]


def _break_tiers(**faults: Any) -> None:
    from stepwell.engine import build, loop
    from stepwell.tier.faulty import Faults, FaultyTier

    class Wearing(FaultyTier):
        """Well until it has been used a little, so that its speed is known."""

        uses = 0

        def _draw(self, call: str, key: bytes) -> Any:
            self.uses += 1
            if self.uses == _WELL:
                self.faults = Faults(**faults)
            return super()._draw(call, key)

    def broken(config: Any, *, progress: Any = None) -> Any:
        return build.build_engine(
            config, progress=progress, wrap_tier=lambda name, tier: Wearing(tier)
        )

    loop.build_engine = broken  # type: ignore[assignment]


FAULTS = {
    "none": lambda: None,
    "slow-tier": slow_tier,
    "failing-tier": failing_tier,
    "starved": starved,
    "hanging": hanging,
    "failing-steps": failing_steps,
}


if __name__ == "__main__":
    from stepwell.cli.main import run

    FAULTS[sys.argv.pop(1)]()
    sys.argv[0] = "stepwell"
    sys.argv.insert(1, "serve")
    run()
