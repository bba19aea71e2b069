"""`stepwell doctor oom`: what ran out of memory, who holds it, and what to change."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.cli import options
from stepwell.cli.doctor_oom_table import print_explanation, print_snapshot, print_unknown
from stepwell.cli.output import print_json

if TYPE_CHECKING:
    from stepwell.doctor.oom.source import Report
    from stepwell.doctor.oom.words import Explanation

app = typer.Typer(add_completion=False, rich_markup_mode="rich")

UNKNOWN_EXIT = 3
"""No known message was found."""

Source = Annotated[
    str, typer.Argument(help="A log or message, or torch's memory snapshot; -: standard input.")
]
Precision = Annotated[
    str | None, typer.Option("--weights", help="Precision of the weights, where not the model's.")
]


@app.command()
def oom(
    source: Source,
    model: Annotated[
        str | None, typer.Option(help="What was served: splits the numbers by the plan's sizes.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="On which device, such as h100, where the text has no size.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Devices that share the model; default: as the log says, else 1."),
    ] = None,
    weights: Precision = None,
    as_json: options.Json = False,
) -> None:
    """Explain an out-of-memory message: who holds what, why, and what to change in which order.

    Reads whole logs (the last message that explains most) of PyTorch, vLLM, SGLang, llama.cpp,
    ollama, TGI, TensorRT-LLM, JAX, the kernel and Stepwell, and snapshots of torch (pickle or
    JSON; no torch needed, and nothing in them is run). Exit code 0: explained; 3: not known.

    Example: [bold]stepwell doctor oom server.log --model llama-3.1-8b --device h100[/bold]
    """
    from stepwell.doctor.oom.source import read_source

    report = read_source(source)
    found = report.explanation
    if found is not None and model is not None:
        told = report.log.facts.settings if report.log is not None else {}
        count = shards or int(told.get("tensor_parallel_size", 1))
        found = _joined(found, model=model, device=device, shards=count, weights=weights)
        report = dataclasses.replace(report, explanation=found)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)
    if found is None:
        sys.exit(UNKNOWN_EXIT)


def _joined(
    found: Explanation, *, model: str, device: str | None, shards: int, weights: str | None
) -> Explanation:
    from stepwell.doctor.oom.join_plan import Deployment, join_plan
    from stepwell.plan.architecture import WeightPrecision

    valid = [precision.value for precision in WeightPrecision]
    if weights is not None and weights not in valid:
        message, hint = unknown_name("precision", weights, valid)
        raise ConfigError(message, hint=hint, param="weights")
    precision = None if weights is None else WeightPrecision(weights)
    return join_plan(
        found, Deployment(model=model, device=device, weights=precision, shards=shards)
    )


def _print(report: Report) -> None:
    if report.devices:
        print_snapshot(report.devices)
    if report.explanation is not None:
        print_explanation(report.explanation, report.log)
    elif report.log is not None:
        print_unknown(report.log)
