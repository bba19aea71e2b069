"""`stepwell bench plan`: the planner's arithmetic against what is really allocated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.bench_result import (
    chosen_parts,
    result_document,
    show_section,
    write_document,
)
from stepwell.cli.output import moving_line, note


def plan(
    quick: Annotated[
        bool, typer.Option("--quick", help="Some models, one engine, no vLLM: under 50 s.")
    ] = False,
    only: Annotated[
        str, typer.Option(metavar="PARTS", help="weights, kv, vllm, engine: comma-separated.")
    ] = "",
    workdir: Annotated[Path, typer.Option(help="For weights of a known shape.")] = Path(
        "~/.cache/stepwell/bench"
    ),
    environments: Annotated[
        Path, typer.Option(envvar="STEPWELL_RIVALS", help="Where vLLM is installed.")
    ] = Path("~/.cache/stepwell/rivals"),
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no table.")
    ] = False,
) -> None:
    """Hold `stepwell plan` against transformers, vLLM and our own engine, byte by byte.

    Example: [bold]stepwell bench plan --only weights,kv[/bold]
    """
    from stepwell.evaluate.plan_check import QUICK_PARTS, Part, PlanCheckOptions, run_plan_check

    parts = chosen_parts(only, Part) if only else QUICK_PARTS if quick else tuple(Part)
    options = PlanCheckOptions(parts=parts, quick=quick, environments=environments, workdir=workdir)
    show = (lambda section: None) if as_json else show_section
    with moving_line() as say:
        result = run_plan_check(options, on_section=show, say=say)
    document = result_document(result, model="shipped configurations", quick=quick)
    write_document(document, out)
    for name, reason in result["missing"].items():
        note(f"{name}: left out: {reason}")
    print(json.dumps(document if as_json else result["summary"], ensure_ascii=False))
