"""The planner held against reality: `stepwell bench plan`.

weights   shipped configurations against transformers' models on the meta device
kv        small models' caches, really filled: transformers', our pool's
vllm      the same against vLLM on a CPU, where it is installed
engine    our engine's memory before its start against its account and the system's figure
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.evaluate.options import OnProgress, OnSection, Section
from stepwell.plan import catalogue


class Part(StrEnum):
    """Of the comparison, in their order."""

    WEIGHTS = "weights"
    KV = "kv"
    VLLM = "vllm"
    ENGINE = "engine"


QUICK_PARTS = (Part.WEIGHTS, Part.KV, Part.ENGINE)
_QUICK_MODELS = ("house", "llama-3.1-8b", "mixtral-8x7b", "gemma-3-27b", "gpt-oss-20b")
_QUICK_KV = ("full: llama", "sliding: mistral", "mixed: gemma-2")


@dataclass(frozen=True, slots=True)
class PlanCheckOptions:
    """`environments`: where vLLM is installed; `workdir`: for the checkpoint of a known shape."""

    parts: Sequence[Part]
    quick: bool
    environments: Path
    workdir: Path


def run_plan_check(
    options: PlanCheckOptions, *, on_section: OnSection, say: OnProgress
) -> dict[str, Any]:
    """`summary`: one figure for each question; `missing`: part -> why it was left out; and all
    rows, by part."""
    result: dict[str, Any] = {"missing": {}}
    for part in options.parts:
        say(f"comparing: {part}")
        if part is Part.VLLM:
            from stepwell.evaluate.plan_vllm import missing

            reason = missing(options.environments)
            if reason:
                result["missing"][str(part)] = reason
                continue
        section = _SECTIONS[part](options)
        result[part.value] = section.figures
        on_section(section)
    result["summary"] = {
        f"{part}_{name}": value
        for part in options.parts
        if part.value in result
        for name, value in result[part.value].items()
        if name != "rows"
    }
    return result


def _weights(options: PlanCheckOptions) -> Section:
    from stepwell.evaluate.plan_weights import weight_rows

    found = list(weight_rows(_QUICK_MODELS if options.quick else catalogue.names()))
    built = [row for row in found if row.built is not None]
    figures = {
        "models": len(built),
        "types": len({row.model_type for row in built}),
        "exact": sum(row.is_exact for row in built),
        "rows": [asdict(row) for row in found],
    }
    rows = tuple(
        (row.model, row.model_type, str(row.planned), _difference(row.planned, row.built))
        for row in found
    )
    columns = ("model", "type", "planned bytes", "transformers")
    notes = tuple(f"{row.model}: {row.reason}" for row in found if row.reason)
    return Section("weights", "Weights, against meta-device models", columns, rows, figures, notes)


def _kv(options: PlanCheckOptions) -> Section:
    from stepwell.evaluate.plan_kv import TOKENS, kv_rows
    from stepwell.evaluate.plan_models import SMALL

    names = _QUICK_KV if options.quick else tuple(SMALL)
    title = f"KV of one sequence of {TOKENS} tokens, small models"
    return _kv_section("kv", title, kv_rows({name: SMALL[name] for name in names}))


def _vllm(options: PlanCheckOptions) -> Section:
    from stepwell.evaluate.plan_kv import TOKENS
    from stepwell.evaluate.plan_vllm import vllm_rows

    title = f"KV of one sequence of {TOKENS} tokens in vLLM on a CPU, small models"
    return _kv_section("vllm", title, vllm_rows(options.environments))


def _kv_section(name: str, title: str, found: Iterator[Any]) -> Section:
    all_rows = list(found)
    known = [row for row in all_rows if row.real is not None]
    figures = {
        "compared": len(known),
        "exact": sum(row.is_exact for row in known),
        "rows": [asdict(row) for row in all_rows],
    }
    rows = tuple(
        (row.model, row.holder, str(row.planned), _difference(row.planned, row.real))
        for row in all_rows
    )
    notes = tuple(f"{row.model}, {row.holder}: {row.reason}" for row in all_rows if row.reason)
    return Section(name, title, ("model", "kept by", "planned bytes", "real"), rows, figures, notes)


def _engine(options: PlanCheckOptions) -> Section:
    from stepwell.evaluate.plan_engine import engine_rows

    found = list(engine_rows(quick=options.quick, workdir=options.workdir))
    figures = {
        "engines": len(found),
        "largest_error": max(abs(row.error) for row in found),
        "largest_unaccounted": max(abs(row.unaccounted_share) for row in found),
        "rows": [row.as_dict() for row in found],
    }
    rows = tuple(
        (row.engine, format_bytes(row.planned), format_bytes(row.system), f"{row.error:+.1%}",
         f"{row.unaccounted_share:+.1%}")
        for row in found
    )  # fmt: skip
    columns = ("engine", "planned", "resident", "plan", "unaccounted")
    return Section("engine", "Our engine's memory before and after its start", columns, rows,
                   figures)  # fmt: skip


_SECTIONS = {Part.WEIGHTS: _weights, Part.KV: _kv, Part.VLLM: _vllm, Part.ENGINE: _engine}


def _difference(planned: int, real: int | None) -> str:
    if real is None:
        return "-"
    return "the same" if real == planned else f"{real - planned:+} bytes"
