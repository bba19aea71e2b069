"""The loop: looks at sources again and again, and keeps a series of each number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.errors import DoctorError
from stepwell.doctor.fetch import Server
from stepwell.doctor.leaks.process import NoSuchProcess, sample_tree
from stepwell.doctor.leaks.trend import Point

MOST_SERIES = 400
"""A page with labels without end must not fill our own memory."""

INSIDE_EVERY = 10.0
"""Seconds between two looks at a debug page at least: each holds the server up."""

FINISHED = "requests finished"
_FINISHED_COUNTERS = (
    "vllm:request_success", "sglang:num_requests", "tgi_request_count",
)  # fmt: skip
_GAUGES = (
    "process_resident_memory_bytes", "process_open_fds", "stepwell_memory_bytes",
    "stepwell_kv_cached_bytes", "stepwell_tier_bytes", "stepwell_tier_sessions",
)  # fmt: skip

Look = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Observed:
    """Series by name, points as (second since the start, value). `ended`: what was watched was
    gone before the time was over."""

    series: Mapping[str, Sequence[Point]]
    seconds: float
    looks: int
    ended: bool


def process_look(pid: int) -> Look:
    """Memory in bytes, threads and open files of a process with its children."""

    def look() -> Mapping[str, float]:
        sample = sample_tree(pid)
        found = {
            "own memory": sample.anon,
            "shared memory": sample.shmem,
            "mapped files": sample.file,
            "threads": sample.threads,
            "processes": sample.processes,
        }
        if sample.files is not None:
            found["open files"] = sample.files
        return {name: float(value) for name, value in found.items()}

    return look


def server_look(server: Server) -> Look:
    """Gauges of sizes and counts of a server's page, requests finished, and, where the server has
    a debug page, its tensors and containers."""

    next_inside = 0.0

    def look() -> Mapping[str, float]:
        nonlocal next_inside
        page = server.page()
        found: dict[str, float] = {}
        for name, samples in page.samples.items():
            if name in _FINISHED_COUNTERS:
                found[FINISHED] = found.get(FINISHED, 0.0) + sum(value for _, value in samples)
            elif name in _GAUGES:
                for labels, value in samples:
                    found[_label(name, labels)] = value
        if time.monotonic() >= next_inside:
            found |= _inside(server.debug_memory())
            next_inside = time.monotonic() + INSIDE_EVERY
        return found

    return look


def observe(
    looks: Sequence[Look],
    *,
    seconds: float,
    every: float,
    on_look: Callable[[float], None] | None = None,
    is_over: Callable[[], bool] | None = None,
) -> Observed:
    """Look at all for `seconds`. What fails after the first look ends it; the first may raise
    NoSuchProcess or DoctorError. `is_over`: asked before each look."""
    start = time.monotonic()
    series: dict[str, list[Point]] = {}
    count, ended = 0, False
    while True:
        now = time.monotonic() - start
        try:
            for look in looks:
                _take(series, look(), at=now)
        except (NoSuchProcess, DoctorError):
            if not count:
                raise
            ended = True
            break
        count += 1
        if on_look is not None:
            on_look(min(now, seconds))
        if now >= seconds:
            break
        time.sleep(max(0.0, min(every, start + count * every - time.monotonic())))
        if is_over is not None and is_over():
            ended = True
            break
    return Observed(series, time.monotonic() - start, count, ended)


def _take(series: dict[str, list[Point]], found: Mapping[str, float], *, at: float) -> None:
    for name, value in found.items():
        if name in series or len(series) < MOST_SERIES:
            series.setdefault(name, []).append((at, value))


def _label(name: str, labels: Mapping[str, str]) -> str:
    """With the labels that tell samples of one name apart."""
    shown = [
        f"{key}={value}" for key, value in labels.items() if key not in ("model_name", "engine")
    ]
    return f"{name}{{{','.join(shown)}}}" if shown else name


def _inside(page: Mapping[str, Any] | None) -> dict[str, float]:
    """Numbers of a debug page (`audit.Audit.as_dict`); containers of one owner are added up."""
    if page is None:
        return {}
    found: dict[str, float] = {"python objects": float(page.get("objects", 0))}
    tensors = page.get("tensors")
    if tensors:
        found["tensors"] = float(tensors["count"])
        found["tensors with a graph"] = float(tensors["with_graph"])
    for item in page.get("containers", ()):
        name = f"items in {item['owner'] or 'an unnamed ' + item['kind']}"
        found[name] = found.get(name, 0.0) + item["items"]
    return found
