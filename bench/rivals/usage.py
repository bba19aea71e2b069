"""Processor time of this process and whatever it started, thread by thread, as Linux counts it.

Tells what an engine used, rather than what it was told: an engine that binds its workers to one
core, or computes in a process of its own, is seen all the same. Elsewhere than on Linux: nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_PARENT, _USER, _SYSTEM, _START = 1, 11, 12, 19  # fields of /proc/PID/stat after the name
_BUSY = 0.1  # share of the time from which a thread counts as one that worked


@dataclass(frozen=True, slots=True)
class Usage:
    """`cores`: seconds of processor time a second; `threads`: how many of them worked."""

    cores: float
    threads: int


def thread_seconds() -> dict[str, float]:
    """Processor seconds so far of each thread of this process and its descendants."""
    tick = os.sysconf("SC_CLK_TCK")
    found: dict[str, float] = {}
    for pid in _family():
        for thread in (_PROC / pid / "task").glob("*"):
            if fields := _stat(thread):
                found[thread.name] = (int(fields[_USER]) + int(fields[_SYSTEM])) / tick
    return found


def used(before: Mapping[str, float], after: Mapping[str, float], *, seconds: float) -> Usage:
    """Between two looks that were `seconds` apart. Threads that ended meanwhile are not seen."""
    spent = [value - before.get(name, 0.0) for name, value in after.items()]
    return Usage(sum(spent) / seconds, sum(1 for value in spent if value >= _BUSY * seconds))


def seconds_since_start() -> float:
    """Since this process was started; NaN where that cannot be told."""
    fields = _stat(_PROC / "self")
    if not fields:
        return float("nan")
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    return now - int(fields[_START]) / os.sysconf("SC_CLK_TCK")


def _family() -> list[str]:
    """This process and its descendants, parents first."""
    children: dict[str, list[str]] = {}
    for folder in _PROC.glob("[0-9]*"):
        if fields := _stat(folder):
            children.setdefault(fields[_PARENT], []).append(folder.name)
    family = [str(os.getpid())]
    for pid in family:  # grows while it is read
        family += children.get(pid, ())
    return family


def _stat(folder: Path) -> list[str]:
    """Fields after the name, which may hold spaces and brackets; nothing if it has ended."""
    try:
        return (folder / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
