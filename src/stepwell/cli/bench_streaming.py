"""`stepwell bench streaming`: a model three times as large as its memory."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from stepwell.cli.bench_result import (
    earlier_result,
    result_document,
    show_section,
    words,
    write_document,
)
from stepwell.cli.output import moving_line, note


def streaming(
    model: Annotated[
        str, typer.Argument(help="A shape or a checkpoint folder; by default 3.8 GB of a shape.")
    ] = "llama-1.9b-shape",
    quick: Annotated[bool, typer.Option("--quick", help="One round, 8 tokens, no rival.")] = False,
    weights: Annotated[
        str, typer.Option(help="Also with weights in these formats: `int8,int4`.")
    ] = "",
    batches: Annotated[str, typer.Option(help="Sequences at once, comma-separated.")] = "1,32",
    tokens: Annotated[int | None, typer.Option(help="Per sequence. Default 16, quick 8.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of each. Default 2, quick 1.")] = None,
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
        bool, typer.Option("--json", help="Print all figures as one JSON line, no table.")
    ] = False,
) -> None:
    """Stream a model through a third of its size in memory, beside accelerate's disk offload.

    The limit is enforced by a cgroup where one can be made. Needs twice the model's size on disk.

    Example: [bold]stepwell bench streaming --out streaming.json[/bold]
    """
    from stepwell.evaluate.streaming_bench import StreamingOptions, run_streaming_bench

    # So that contestants, and what they started, end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = StreamingOptions(
        model=model,
        rounds=rounds or (1 if quick else 2),
        batches=tuple(int(word) for word in words(batches)),
        tokens=tokens or (8 if quick else 16),
        formats=("checkpoint", *words(weights)),
        rival=not quick,
        workdir=workdir,
        environments=environments,
    )
    show = (lambda section: None) if as_json else show_section
    earlier = earlier_result(out) if add else None
    with moving_line() as say:
        result = run_streaming_bench(options, on_section=show, say=say, earlier=earlier)
    document = result_document(result, model=model, quick=quick)
    if earlier is not None:
        document["command"] = f"{earlier['command']} && {document['command']}"
    write_document(document, out)
    for name, reason in result["missing"].items():
        note(f"{name}: left out: {reason}")
    print(json.dumps(document if as_json else result["summary"], ensure_ascii=False))
