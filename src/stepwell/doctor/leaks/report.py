"""From series to findings: what grows, how fast, and what that means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stepwell.base.units import format_bytes, format_seconds
from stepwell.doctor.finding import Finding, Severity, ordered
from stepwell.doctor.leaks.trend import Trend, Verdict, judge
from stepwell.doctor.leaks.watch import FINISHED, Observed

_MIB = 1 << 20
_LEVEL_SHARE = 0.0005
"""Growth below this share of what is held is not told from noise."""

_COUNTS = {"threads": 3.0, "processes": 2.0, "open files": 8.0, "tensors with a graph": 8.0,
           "tensors": 50.0, "python objects": 20_000.0}  # fmt: skip
_ITEMS = 500.0
_ITEMS_OF = "items in "
_LEAST_GAIN, _SHOWN = 100, 3
_POOLS = ("kv_cached_bytes", "tier_bytes", "tier_sessions")
_INNOCENT = (*_POOLS, "mapped files", "kv_pool", "unaccounted", "malloc_kept")
"""Files can be read again, pools fill up to their limit, and what is not accounted for is part of
the process's own memory: shown, never called a leak."""

_FILLING = "pools are still filling, and their books with them: watch again once they are full"

_MEMORY = ("own memory", "shared memory", "process_resident_memory_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReport:
    """`trends` by series. `finished`: requests in that time; None: not known. `verdict`: GROWS if
    anything leaks, STEADY if memory is known not to."""

    target: str
    seconds: float
    looks: int
    ended: bool
    trends: Mapping[str, Trend]
    finished: float | None
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Of all that could leak; where only memory is undecided, undecided."""
        judged = [t.verdict for name, t in self.trends.items() if can_leak(name)]
        if Verdict.GROWS in judged:
            return Verdict.GROWS
        memory = [t.verdict for name, t in self.trends.items() if name in _MEMORY]
        steady = memory and all(verdict is Verdict.STEADY for verdict in memory)
        return Verdict.STEADY if steady else Verdict.UNDECIDED

    def as_dict(self) -> dict[str, Any]:
        """For `--json`; slopes a second."""
        return {
            "target": self.target,
            "verdict": self.verdict.value,
            "seconds": self.seconds,
            "looks": self.looks,
            "ended": self.ended,
            "requests_finished": self.finished,
            "series": {name: _trend_dict(trend) for name, trend in self.trends.items()},
            "findings": [finding.as_dict() for finding in self.findings],
        }


def make_report(observed: Observed, *, target: str, memory_left: int | None) -> LeakReport:
    """`memory_left`: bytes that the machine has free; None: not this machine."""
    trends = {
        name: judge(points, material=material(name, points[0][1]))
        for name, points in observed.series.items()
        if name != FINISHED
    }
    if any(trends[name].verdict is Verdict.GROWS for name in trends if _is_pool(name)):
        trends |= {
            name: replace(trend, verdict=Verdict.UNDECIDED, because=_FILLING)
            for name, trend in trends.items()
            if trend.verdict is Verdict.GROWS and not _is_pool(name)
        }
    finished = None
    if counted := observed.series.get(FINISHED):
        finished = counted[-1][1] - counted[0][1]
    inside = _grown_inside(observed)
    found = [
        _finding(
            name,
            trend,
            finished=finished,
            seconds=observed.seconds,
            left=memory_left,
            inside=inside,
        )
        for name, trend in trends.items()
        if trend.verdict is Verdict.GROWS and can_leak(name)
    ]
    return LeakReport(
        target=target,
        seconds=observed.seconds,
        looks=observed.looks,
        ended=observed.ended,
        trends=trends,
        finished=finished,
        findings=tuple(ordered(found)),
    )


def _grown_inside(observed: Observed) -> str:
    """Containers that gained most meanwhile, from a server's debug page; empty: none is known."""
    gains = [
        (points[-1][1] - points[0][1], name.removeprefix(_ITEMS_OF), points)
        for name, points in observed.series.items()
        if name.startswith(_ITEMS_OF)
    ]
    most = sorted((gain for gain in gains if gain[0] >= _LEAST_GAIN), reverse=True)[:_SHOWN]
    shown = (f"{name} ({p[0][1]:,.0f} to {p[-1][1]:,.0f} items)" for _, name, p in most)
    return ", ".join(shown)


def _is_pool(name: str) -> bool:
    return any(word in name for word in _POOLS)


def material(name: str, level: float) -> float:
    """Growth over the watch that would matter, in the series' unit."""
    if is_bytes(name):
        return max(_MIB, _LEVEL_SHARE * level)
    if name in _COUNTS:
        return _COUNTS[name]
    return 8.0 if name.endswith(("_fds", "_threads", "_tasks")) else _ITEMS


def is_bytes(name: str) -> bool:
    """Whether a series is of bytes."""
    return "bytes" in name or name in ("own memory", "shared memory", "mapped files")


def can_leak(name: str) -> bool:
    """Whether growth of a series would be a leak."""
    return not any(word in name for word in _INNOCENT)


def shown(name: str, value: float) -> str:
    """A value of a series for people."""
    return format_bytes(value) if is_bytes(name) else f"{value:,.0f}"


def _finding(
    name: str, trend: Trend, *, finished: float | None, seconds: float, left: int | None,
    inside: str,
) -> Finding:  # fmt: skip
    rate = f"{shown(name, trend.slope * 60)} a minute"
    low, high = shown(name, trend.low * 60), shown(name, trend.high * 60)
    evidence: dict[str, float | str] = {
        "slope_per_second": trend.slope,
        "low_per_second": trend.low,
        "high_per_second": trend.high,
        "first": trend.first,
        "last": trend.last,
        "seconds": trend.seconds,
    }
    told = ""
    if finished:
        evidence["per_request"] = trend.slope * seconds / finished
        told = f" That is {shown(name, trend.slope * seconds / finished)} for each request."
    gain = ""
    if name in _MEMORY and left is not None and trend.slope > 0:
        evidence["seconds_until_full"] = left / trend.slope
        gain = f"without it memory lasts; with it, {format_seconds(left / trend.slope)} more"
    diagnosis, action = _advice(name)
    if inside and name in _MEMORY:
        diagnosis += f" Inside, these gained most meanwhile: {inside}."
        diagnosis += " If they have a limit, growth ends there."
    return Finding(
        code=f"leak_{_slug(name)}",
        title=f"{name} grows by {rate}",
        symptom=f"{name} went from {shown(name, trend.first)} to {shown(name, trend.last)}; the "
        f"slope is between {low} and {high} a minute with 99 % confidence.{told}",
        diagnosis=diagnosis,
        action=action,
        evidence=evidence,
        gain=gain,
        severity=Severity.HIGH if name in _MEMORY else Severity.MEDIUM,
    )


def _advice(name: str) -> tuple[str, str]:
    if name == "shared memory":
        return (
            "Segments of shared memory (/dev/shm, pinned pools) are made and not removed.",
            "Look at `ls -la /dev/shm` over time; end workers before their parent.",
        )
    if name in _MEMORY:
        return (
            "Heap or anonymous mappings grow: lists that are never drained, tensors that keep a "
            "graph, buffers of a library, or freed memory that malloc keeps in pieces.",
            "Look inside: stepwell.doctor.leaks.audit.watch() around a step, tracemalloc, memray. "
            "If nothing in Python grows, try one malloc arena (MALLOC_ARENA_MAX=1) or jemalloc.",
        )
    if "tensor" in name:
        return (
            "Results of computing with gradients are kept: each keeps the activations it was "
            "computed from.",
            "Run inference under torch.inference_mode(), and keep numbers or .detach() of results.",
        )
    if name.startswith("items in"):
        return (
            "A container only gains entries.",
            f"Remove entries when their request ends ({name.removeprefix('items in ')}).",
        )
    if "file" in name or name.endswith("_fds"):
        return (
            "Files or sockets are opened and not closed.",
            "Look at `ls -l /proc/PID/fd`: the same target again and again is the one.",
        )
    if "thread" in name:
        return (
            "Threads are started and do not end: a pool for each request, or workers that wait for "
            "ever.",
            "Look at their names (py-spy dump, /proc/PID/task/*/comm).",
        )
    return ("It only grows.", "Find out what adds to it and what should take away.")


def _slug(name: str) -> str:
    kept = "".join(char if char.isalnum() else "_" for char in name.lower())
    return "_".join(filter(None, kept.split("_")))


def _trend_dict(trend: Trend) -> dict[str, Any]:
    infinite = float("inf")
    return {
        "verdict": trend.verdict.value,
        "because": trend.because,
        "slope": trend.slope,
        "low": None if trend.low == -infinite else trend.low,
        "high": None if trend.high == infinite else trend.high,
        "first": trend.first,
        "last": trend.last,
        "seconds": trend.seconds,
        "blocks": trend.blocks,
        "material": trend.material,
    }
