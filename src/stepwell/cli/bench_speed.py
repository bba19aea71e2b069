"""`stepwell bench speed`: how near the machine's limits, and how near to rivals."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.cli.bench_result import (
    chosen_parts,
    earlier_result,
    result_document,
    show_section,
    words,
    write_document,
)
from stepwell.cli.output import moving_line, note


def speed(
    model: Annotated[
        str, typer.Argument(help="A shape (`qwen`: Qwen2.5-0.5B's), a checkpoint folder, `house`.")
    ] = "qwen",
    quick: Annotated[
        bool, typer.Option("--quick", help="Stepwell alone, one round, at most 50 seconds.")
    ] = False,
    rivals: Annotated[
        bool, typer.Option("--rivals", help="Also those of bench/rivals that are installed.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Parts, comma-separated: decode, prefill, batch, long, start.")
    ] = "",
    variants: Annotated[
        str, typer.Option(help="Only these, by engine, format or both: `openvino int4,llama.cpp`.")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="Turns of each. Default 3, quick 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of tokens.")] = None,
    workdir: Annotated[Path, typer.Option(help="For weights of shapes and logs.")] = Path(
        "~/.cache/stepwell/bench"
    ),
    environments: Annotated[
        Path, typer.Option(envvar="STEPWELL_RIVALS", help="Where rivals are installed.")
    ] = Path("~/.cache/stepwell/rivals"),
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Add these rounds to those that --out has already.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no tables.")
    ] = False,
) -> None:
    """Measure decoding, prompts, mixed requests and starting, in bf16, int8 and int4.

    Example: [bold]stepwell bench speed --quick[/bold]

    Beside rivals: [bold]stepwell bench speed qwen --rivals --variants bf16 --out FILE[/bold]

    Very long context: [bold]stepwell bench speed --only long --rounds 1[/bold]
    """
    from stepwell.evaluate import speed_options as choices
    from stepwell.evaluate.options import QUICK_SECONDS
    from stepwell.evaluate.speed_bench import run_speed_bench
    from stepwell.evaluate.workload import REFERENCE_SEED

    # So that contestants, and what they started, end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    known = (choices.QUICK_OWN if quick else choices.OWN) + (choices.RIVALS if rivals else ())
    parts = choices.QUICK_PARTS if quick else choices.DEFAULT_PARTS
    options = choices.SpeedOptions(
        model=model,
        quick=quick,
        parts=chosen_parts(only, choices.Part) if only else parts,
        variants=choices.choose_variants(known, words(variants)),
        rounds=rounds or (1 if quick else 3),
        seed=REFERENCE_SEED if seed is None else seed,
        sizes=choices.QUICK_SIZES if quick else choices.Sizes(),
        seconds=QUICK_SECONDS if quick else math.inf,
        workdir=workdir,
        environments=environments,
    )
    earlier = earlier_result(out) if add else None
    show = (lambda section: None) if as_json else show_section

    def keep(result: dict[str, Any]) -> dict[str, Any]:
        document = result_document(result, model=model, quick=quick)
        if earlier is not None:
            document["command"] = f"{earlier['command']} && {document['command']}"
        write_document(document, out)
        return document

    with moving_line() as say:
        result = run_speed_bench(options, on_section=show, say=say, earlier=earlier, keep=keep)
    document = keep(result)
    for name, reason in result["missing"].items():
        note(f"{name}: left out: {reason}")
    print(json.dumps(document if as_json else result["summary"], ensure_ascii=False))
