"""Where the time of a start goes."""

from __future__ import annotations

import time

from stepwell.base.decisions import Decision
from stepwell.hardware.process import seconds_since_exec
from stepwell.kernels.native import compile_log


class StartClock:
    """Begun when an engine is to be built. Phases are counted one after another."""

    def __init__(self) -> None:
        self._phases: list[tuple[str, float]] = []
        self._last = time.perf_counter()
        self._before = seconds_since_exec()
        self._known = len(compile_log.made())

    def phase(self, name: str) -> None:
        """What ran since the last phase, or since the beginning, was this."""
        now = time.perf_counter()
        self._phases.append((name, now - self._last))
        self._last = now

    def decisions(self) -> tuple[Decision, Decision]:
        """Seconds of the phases, and of making kernels among them."""
        phases = list(self._phases)
        if self._before is not None:
            phases.insert(0, ("imports and settings", self._before))
        parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in phases)
        total = sum(seconds for _, seconds in phases)
        return Decision("engine.start_seconds", round(total, 2), parts), self._kernels()

    def _kernels(self) -> Decision:
        made = compile_log.made()[self._known :]
        fresh = [kernel for kernel in made if kernel.compiled]
        seconds = sum(kernel.seconds for kernel in fresh)
        loaded = sum(kernel.seconds for kernel in made) - seconds
        why = f"{len(made) - len(fresh)} loaded from the disk cache in {loaded:.2f} s"
        if fresh:
            why = f"{seconds:.1f} s, once per machine; {why}"
        return Decision("kernels.compiled", len(fresh), why)
