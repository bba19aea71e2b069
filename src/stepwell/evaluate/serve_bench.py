"""`stepwell bench serve`: runs the chosen sections and sums them up in one flat object.

Order: the ceiling first, then each section; the summary last. Sections run only where they make
sense: with `url` there is no engine here, so only `load` runs.
"""

from __future__ import annotations

import platform
import shlex
import sys
import time
from datetime import UTC, datetime
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.arena import Arena, check_sections
from stepwell.evaluate.arrival import Arrival
from stepwell.evaluate.options import BenchOptions, OnProgress, OnSection, Section
from stepwell.evaluate.race import budget_section, throughput_section
from stepwell.evaluate.sections import (
    ceiling_section,
    memory_section,
    soak_section,
    ttft_section,
)
from stepwell.evaluate.statistics import without_nan
from stepwell.evaluate.traffic import http_section, load_section
from stepwell.hardware.machine import read_machine


def run_serve_bench(
    options: BenchOptions, *, on_section: OnSection, say: OnProgress
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the flat summary, everything for the result file). Raises StepwellError."""
    _check(options)
    start = time.monotonic()
    sections: dict[str, Section] = {}
    details: dict[str, Any] = {}

    def keep(section: Section) -> None:
        sections[section.name] = section
        on_section(section)

    arena = Arena(options, say)
    if options.url:
        keep(load_section(arena, offline_rate=0.0))
    else:
        with arena:
            _run_sections(arena, sections, keep)
            details = {"loaded": arena.loaded, "missing": arena.missing}
    summary = summarize(options, sections, seconds=time.monotonic() - start)
    return summary, _document(options, summary, sections) | details


def _run_sections(arena: Arena, sections: dict[str, Section], keep: OnSection) -> None:
    wanted = arena.options.sections
    keep(ceiling_section(arena))
    plain = {
        "memory": memory_section,
        "throughput": throughput_section,
        "budget": budget_section,
        "ttft": ttft_section,
        "http": http_section,
    }
    for name, measure in plain.items():
        if name in wanted:
            arena.say(name)
            keep(measure(arena))
    if "load" in wanted:
        keep(load_section(arena, offline_rate=_offline_rate(arena, sections)))
    if arena.options.soak:
        keep(soak_section(arena))


def _offline_rate(arena: Arena, sections: dict[str, Section]) -> float:
    """Requests a second of the offline engine, from the sections so far or measured now."""
    if "http" in sections:
        return arena.options.requests / float(min(sections["http"].figures["offline_s"]))
    if arena.options.rate or arena.options.arrival is Arrival.TRACE:
        return 0.0
    work = arena.options.mix(vocab_size=arena.vocab_size).draw(turn=997)
    found = arena.own.ask("run", requests=work.as_dicts())
    return len(work.requests) / float(found["seconds"])


def summarize(
    options: BenchOptions, sections: dict[str, Section], *, seconds: float
) -> dict[str, Any]:
    """One flat object: the figures that promises are made of. None: not measured."""
    figures = {name: section.figures for name, section in sections.items()}
    ceiling = figures.get("ceiling", {}).get("ceiling", {})
    own = figures.get("throughput", {}).get("output_tokens_per_s", {}).get("stepwell", {})
    bound = figures.get("throughput", {}).get("bound_output_tokens_per_s")
    ttft = figures.get("ttft", {}).get("stepwell", {})
    load = figures.get("load", {})
    memory = figures.get("memory", {})
    summary = {
        "bench": "serve",
        "model": options.model,
        "quick": options.quick,
        "seconds": round(seconds, 1),
        "bandwidth_bytes_per_s": ceiling.get("bandwidth_all"),
        "gemm_flop_per_s": ceiling.get("flops_all"),
        "output_tokens_per_s": own.get("median"),
        "share_of_ceiling": own["median"] / bound if own and bound else None,
        "kv_waste": memory.get("kv_waste"),
        "steady_allocations": memory.get("steady_allocations"),
        "speedup_vs_static_batch": figures.get("throughput", {}).get("speedup_vs_static"),
        "speedup_at_equal_memory": figures.get("budget", {}).get("speedup_vs_static"),
        "warm_ttft_speedup": ttft.get("speedup"),
        "warm_ttft_decode_steps": ttft.get("warm_decode_steps"),
        "http_overhead": figures.get("http", {}).get("overhead"),
        "p99_ttft_s": load.get("ttft_s", {}).get("p99"),
        "p99_itl_s": load.get("itl_s", {}).get("p99"),
        "goodput_share": load.get("goodput_share"),
        "failed_requests": load.get("failed"),
        "resident_slope_bytes_per_request": figures.get("soak", {}).get("resident_slope"),
        "rivals": _rivals(options, figures),
    }
    return without_nan(summary)


def _rivals(options: BenchOptions, figures: dict[str, Any]) -> dict[str, float | None]:
    """Stepwell's tokens a second over each rival's; None where it did not run."""
    rates = figures.get("throughput", {}).get("output_tokens_per_s", {})
    found: dict[str, float | None] = {
        name: rates[name]["stepwell_ratio"] for name in rates if name != "stepwell"
    }
    for name in options.rivals if rates else ():
        if not any(label.startswith(name) for label in found):
            found[name] = None
    return found


def _document(
    options: BenchOptions, summary: dict[str, Any], sections: dict[str, Section]
) -> dict[str, Any]:
    return without_nan({
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "stepwell " + shlex.join(sys.argv[1:]),
        "machine": read_machine().as_dict() | {"host_python": platform.python_version()},
        "seed": options.seed,
        "rounds": options.rounds,
        "settings": dict(options.settings),
        "summary": summary,
        "sections": {name: section.figures for name, section in sections.items()},
    })  # fmt: skip


def _check(options: BenchOptions) -> None:
    check_sections(options.sections)
    if options.rounds < 1 or options.requests < 1 or options.load_requests < 1:
        raise ConfigError("rounds and requests must be at least 1.", param="rounds")
    for name, (low, high) in (("prompt", options.prompt), ("output", options.output)):
        if not 1 <= low <= high:
            raise ConfigError(f"{name} is {low}:{high}.", hint="Write LOW:HIGH.", param=name)
    if options.arrival is Arrival.TRACE and options.trace is None:
        raise ConfigError("arrival trace needs a file.", hint="Add --trace FILE.", param="trace")
    if options.url and not options.rate and options.arrival in (Arrival.POISSON, Arrival.GAMMA):
        raise ConfigError("with --url, --rate must be given.", param="rate")
