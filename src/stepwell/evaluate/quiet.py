"""Waiting until nobody computes: engines' idle threads spin for a while after their last work, and
would slow whoever is measured next. Linux only; elsewhere nothing is waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

_STAT = Path("/proc/stat")
_LOOK_SECONDS = 0.1
_QUIET = 0.15
"""Cores in use, at most, on average over one look."""
_IDLE_FIELDS = (3, 4, 7)  # idle, waiting for a disk, taken by the host


def wait_until_quiet(*, most: float, busy_cores: Callable[[float], float] | None = None) -> bool:
    """Until all processes of this machine together use next to no time, at most `most` seconds.
    False if they went on. `busy_cores`: how to look, for so many seconds."""
    look = busy_cores or _busy_cores
    end = time.monotonic() + most
    while look(_LOOK_SECONDS) > _QUIET:
        if time.monotonic() > end:
            return False
    return True


def _busy_cores(seconds: float) -> float:
    """Cores in use on average; 0 where the kernel does not say."""
    before, start = _busy_ticks(), time.monotonic()
    time.sleep(seconds)
    after = _busy_ticks()
    if before is None or after is None:
        return 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    return (after - before) / ticks / (time.monotonic() - start)


def _busy_ticks() -> int | None:
    try:
        first = _STAT.read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    fields = [int(text) for text in first.split()[1:9]]
    return sum(fields) - sum(fields[i] for i in _IDLE_FIELDS)
