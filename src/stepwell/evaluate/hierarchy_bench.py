"""`stepwell bench hierarchy`: what lower tiers are worth, and that a sick one costs nothing.

Order: the ceiling, the brain at scale (while the process is small), then everything through the
real engine.
"""

from __future__ import annotations

import math
import os
import platform
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stepwell.base.units import format_seconds
from stepwell.evaluate import disk_bench
from stepwell.evaluate.brain_bench import BrainScale, run_brain_bench
from stepwell.evaluate.ceiling import measure_ceiling
from stepwell.evaluate.hierarchy_chat import chat_section
from stepwell.evaluate.hierarchy_return import return_section
from stepwell.evaluate.hierarchy_scale import Scale, quick_scale
from stepwell.evaluate.hierarchy_sick import sick_section
from stepwell.evaluate.options import OnProgress, OnSection, Section
from stepwell.evaluate.serve_bench import without_nan
from stepwell.evaluate.shapes import ALIASES, SHAPES, house_folder, make_checkpoint
from stepwell.hardware.machine import read_machine
from stepwell.model.load import find_checkpoint, read_hf_config

_SESSION_CHUNKS = 10
_QUICK_CHAT_BY = 36.0
"""Seconds after which a quick run begins no chats."""
_PLAIN_BYTES = 128 << 20
_PIECE = 1 << 20


def checkpoint_folder(model: str, workdir: Path) -> str:
    """The folder of a checkpoint, of `house`, or of a shape, which is made once."""
    name = ALIASES.get(model, model)
    if name in SHAPES:
        return str(make_checkpoint(name, workdir=workdir, tokenizer=house_folder()))
    return model


def run_hierarchy_bench(
    model: str,
    *,
    quick: bool,
    workdir: Path,
    on_section: OnSection,
    say: OnProgress,
    scale: Scale | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the flat summary, everything for the result file). Raises StepwellError, OSError."""
    start = time.monotonic()
    workdir = workdir.expanduser()
    workdir.mkdir(parents=True, exist_ok=True)
    folder = checkpoint_folder(model, workdir)
    config = read_hf_config(find_checkpoint(folder)).get_text_config()
    if scale is None:
        make = quick_scale if quick else Scale
        scale = make(seed=1, vocab_size=config.vocab_size)
    sections: dict[str, Section] = {}

    def keep(section: Section) -> None:
        sections[section.name] = section
        on_section(section)

    say("ceiling")
    keep(_ceiling_section(workdir))
    say("brain at scale")
    keep(_brain_section(scale))
    keep(return_section(folder, scale, workdir, say))
    keep(sick_section(folder, scale, say))
    late = quick and time.monotonic() - start > _QUICK_CHAT_BY
    if scale.chats and not late:
        keep(chat_section(folder, scale, block_bytes=_block_bytes(config), say=say))
    if scale.disk_total:
        say("disk tier beside a plain file")
        keep(_disk_section(scale, workdir))
    summary = summarize(model, sections, quick=quick, seconds=time.monotonic() - start)
    return summary, _document(summary, sections)


def summarize(
    model: str, sections: dict[str, Section], *, quick: bool, seconds: float
) -> dict[str, Any]:
    """One flat object. None: not measured."""
    figures = {name: section.figures for name, section in sections.items()}
    back, sick, brain = figures["return"], figures["sick"], figures["brain"]
    chat, disk = figures.get("chat", {}), figures.get("disk", {})
    restores = sum(found.get("wrong_tokens", 0) for found in back.values())
    summary = {
        "bench": "hierarchy",
        "model": model,
        "quick": quick,
        "seconds": round(seconds, 1),
        "ttft_speedup_device": back["host"]["device_speedup"],
        "ttft_speedup_host": back["host"]["speedup"],
        "ttft_speedup_disk": back["disk"]["speedup"],
        "ttft_speedup_network": back["network"].get("speedup"),
        "ttft_speedup_network_reason": back["network"].get("reason"),
        "ttft_speedup_disk_restart": back["disk_restart"]["first_speedup"],
        "sick_tier_p50_ratio": sick["p50_ratio"],
        "sick_tier_p99_ratio": sick["p99_ratio"],
        "sick_tier_requests": sick["n"],
        "wrong_tokens": restores + sick["wrong_tokens"],
        "wrong_tokens_device_cache": sum(f.get("wrong_tokens_device", 0) for f in back.values()),
        "chat_rate_ratio": chat.get("rate_ratio"),
        "chat_p99_ttft_ratio": chat.get("p99_ratio"),
        "plan_p99_ms_1m_chunks": brain["plan_p99_ms"],
        "chunks": brain["chunks"],
        "bytes_per_chunk": brain["bytes_per_chunk"],
        "disk_write_share": disk.get("write_share"),
        "disk_read_share": disk.get("read_share"),
    }
    return dict(without_nan(summary))


def _ceiling_section(workdir: Path) -> Section:
    ceiling = measure_ceiling(quick=True)
    figures = {
        "read_one": ceiling.bandwidth_one,
        "read_all": ceiling.bandwidth_all,
        "memcpy": _memcpy(),
    } | _plain_disk(workdir)
    names = (
        "memory, read by 1 thread",
        f"memory, read by {ceiling.threads} threads",
        "memory, copied by 1 thread",
        "disk, plain file written and synced",
        "disk, plain file read, not cached",
    )
    rows = tuple(
        (name, f"{value / 1e9:.2f} GB/s")
        for name, value in zip(names, figures.values(), strict=True)
    )
    title = "Ceiling: what this machine moves"
    return Section("ceiling", title, ("what", "value"), rows, figures)


def _memcpy() -> float:
    """Bytes/s of copying an array far larger than the caches, best of 5."""
    import numpy as np

    source = np.ones(256 << 20, dtype=np.uint8)
    target = np.zeros_like(source)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return len(source) / best


def _plain_disk(workdir: Path) -> dict[str, float]:
    piece = memoryview(bytearray(os.urandom(_PIECE)))
    with tempfile.TemporaryFile(dir=workdir, buffering=0) as file:
        began = time.perf_counter()
        for _ in range(_PLAIN_BYTES // _PIECE):
            file.write(piece)
        os.fdatasync(file.fileno())
        written = time.perf_counter() - began
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.readinto(piece):
            pass
        read = time.perf_counter() - began
    return {"disk_write": _PLAIN_BYTES / written, "disk_read": _PLAIN_BYTES / read}


def _brain_section(scale: Scale) -> Section:
    sessions = max(100, scale.chunks // _SESSION_CHUNKS)
    found = run_brain_bench(BrainScale(chunks=scale.chunks, sessions=sessions, plans=scale.plans))
    figures: dict[str, Any] = dict(found)
    steps = ", ".join(f"{us:.2f} us at {n}" for n, us in figures["step_us_by_sessions"].items())
    rows = (
        ("bytes a chunk", f"{figures['bytes_per_chunk']:.0f}"),
        (f"plan of {figures['plan_chunks']} chunks, p50", _milliseconds(figures["plan_p50_ms"])),
        (f"plan of {figures['plan_chunks']} chunks, p99", _milliseconds(figures["plan_p99_ms"])),
        ("step, by idle sessions", steps),
    )
    title = f"The brain with {figures['chunks']:,} chunks"
    return Section("brain", title, ("what", "value"), rows, figures)


def _milliseconds(value: float) -> str:
    return format_seconds(value / 1e3)


def _disk_section(scale: Scale, workdir: Path) -> Section:
    with tempfile.TemporaryDirectory(dir=workdir) as folder:
        found = disk_bench.measure(Path(folder), total=scale.disk_total, chunk=_PIECE, rounds=2)
    rows = tuple(
        (
            kind,
            f"{found[f'tier_{kind}']:.2f} GB/s",
            f"{found[f'plain_{kind}']:.2f} GB/s",
            f"{found[f'{kind}_share']:.0%}",
        )
        for kind in ("write", "read")
    )
    columns = ("what", "disk tier", "plain file", "share")
    return Section("disk", "The disk tier beside a plain file", columns, rows, dict(found))


def _block_bytes(config: Any) -> int:
    """Of 16 tokens of K and V in bf16."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(16 * 2 * config.num_hidden_layers * config.num_key_value_heads * head * 2)


def _document(summary: dict[str, Any], sections: dict[str, Section]) -> dict[str, Any]:
    return dict(
        without_nan({
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": "stepwell " + shlex.join(sys.argv[1:]),
            "machine": read_machine().as_dict() | {"host_python": platform.python_version()},
            "summary": summary,
            "sections": {name: section.figures for name, section in sections.items()},
        })
    )  # fmt: skip
