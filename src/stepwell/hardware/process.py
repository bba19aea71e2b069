"""Facts about this process."""

from __future__ import annotations

import os
import time
from pathlib import Path


def seconds_since_exec() -> float | None:
    """How long this process has been running, to a hundredth of a second; None where the system
    does not say (other than Linux)."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        started = int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, AttributeError, IndexError, ValueError):
        return None
