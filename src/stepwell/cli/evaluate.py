"""`stepwell evaluate`: what a codec, or weights in low bits, do to a model's answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stepwell.base.errors import ConfigError
from stepwell.cli import evaluate_precision, options
from stepwell.cli.evaluate_table import show
from stepwell.cli.output import phase_bar

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)
Plot = Annotated[Path | None, typer.Option(help="Draw to this .png or .svg file.")]
Out = Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")]


@app.callback()
def evaluate() -> None:
    """Measure what compressing the KV cache, or the weights, does to a model's answers.

    Example: [bold]stepwell evaluate quality house --quick[/bold]
    """


app.command()(evaluate_precision.precision)
app.command()(evaluate_precision.sensitivity)


@app.command()
def quality(
    model: Annotated[
        str, typer.Argument(help="`house`, a folder, or a Hugging Face name.")
    ] = "house",
    codec: Annotated[
        str, typer.Option(help="raw, lossless, fp8, int8, int4, kvtc, kvtc-paper.")
    ] = "lossless,int8,int4,kvtc",
    ratio: Annotated[
        str, typer.Option(help="Nominal ratios of kvtc and kvtc-paper.")
    ] = "8,16,24,32,48,64",
    tasks: Annotated[
        str | None,
        typer.Option(
            help="pairs, codes, needle, multikey, multivalue, variables; `none` for text alone. "
            "Default: pairs,codes for `house`, the others for any other model."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Questions in all.")] = 2000,
    texts: Annotated[
        int, typer.Option(min=0, help="Contexts that text goes on after, 128 tokens each.")
    ] = 90,
    length: Annotated[int, typer.Option(min=16, help="Tokens of a context.")] = 1024,
    window: Annotated[str, typer.Option(help="Newest tokens kept exact; several compare.")] = "128",
    sinks: Annotated[str, typer.Option(help="Oldest tokens kept exact; several compare.")] = "4",
    text: Annotated[
        list[Path] | None,
        typer.Option("--text", help="Held-out UTF-8 text; repeat. Default: Python's library."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="A file of `stepwell calibrate` for kvtc; default: calibrate here."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda: where the model runs.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the questions.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="At most 50 seconds: a check that it works, no result.")
    ] = False,
    plot: Plot = None,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Compare a model on its own KV cache with the same model on a restored one, in pairs.

    Each context is computed once, its cache goes through each codec's real bytes, and the model
    goes on from what came back: text for divergence, questions for recall.

    Example: [bold]stepwell evaluate quality --quick[/bold]

    Your model: [bold]stepwell evaluate quality ./llama --codec kvtc,int8 --length 8192
    --plot quality.svg[/bold]
    """
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"{device!r} is no device.", hint="cpu or cuda.", param="device")
    from stepwell.evaluate.quality_model import Training
    from stepwell.evaluate.quality_run import QualityOptions, evaluate_quality
    from stepwell.evaluate.quality_settings import make_settings
    from stepwell.evaluate.quality_tasks import HOUSE_TASKS, LARGE_TASKS, check_tasks

    usual = HOUSE_TASKS if model == "house" else LARGE_TASKS
    names = tuple(usual if tasks is None else () if tasks == "none" else _words(tasks))
    check_tasks(names)
    settings = make_settings(
        _words(codec),
        _numbers(ratio, float, "ratio"),
        [int(count) for count in _numbers(sinks, int, "sinks")],
        [int(count) for count in _numbers(window, int, "window")],
    )
    sizes: dict[str, Any] = {"n": n, "texts": texts, "length": length}
    if quick:
        sizes = {"n": min(n, 40), "texts": min(texts, 4), "length": min(length, 512)}
        sizes["training"] = Training(tokens=12_288, sample=2_000, rungs=10)
    wanted = QualityOptions(
        model=model,
        settings=tuple(settings),
        tasks=names,
        seed=seed,
        calibration=calibration,
        text=tuple(text or ()),
        device=device,
        **sizes,
    )
    with phase_bar() as on_progress:
        result = evaluate_quality(wanted, on_progress=on_progress)
    _finish(_dated(result, quick=quick), out=out, plot=plot, as_json=as_json)


@app.command()
def join(
    files: Annotated[
        list[Path], typer.Argument(help="Results that `quality --out` or `precision --out` wrote.")
    ],
    plot: Plot = None,
    out: Out = None,
    as_json: options.Json = False,
) -> None:
    """Join results of one kind: other seeds add questions, other settings add rows. One file is
    shown again.

    Example: [bold]stepwell evaluate join seed1.json seed2.json --plot quality.svg[/bold]
    """
    from stepwell.evaluate.quality_report import join as join_findings
    from stepwell.evaluate.quality_report import make_document, read_document

    documents, parts, runs = [], [], []
    of_weights = False
    for file in files:
        try:
            documents.append(json.loads(file.read_text(encoding="utf-8")))
            of_weights = "arms" in documents[0]
            if not of_weights:
                parts.append(read_document(documents[-1]))
            own = {name: documents[-1].get(name) for name in ("date", "command", "seconds")}
            runs += documents[-1].get("runs", [own])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{file} is no result of `stepwell evaluate quality`: {error}."
            raise ConfigError(message, hint="Write one with --out.", param="files") from None
    if of_weights:
        evaluate_precision.finish_joined(documents, runs, out=out, as_json=as_json)
        return
    joined = make_document(join_findings(parts))
    _finish(_dated(joined | {"runs": runs}, quick=False), out=out, plot=plot, as_json=as_json)


def _finish(
    document: dict[str, Any], *, out: Path | None, plot: Path | None, as_json: bool
) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot is not None:
        from stepwell.evaluate.quality_plot import plot_quality

        plot_quality(document, plot)
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        show(document)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, kind: Callable[[str], float], name: str) -> list[float]:
    try:
        return [kind(word) for word in _words(text)]
    except ValueError:
        message = f"--{name} {text!r} is no list of numbers."
        raise ConfigError(message, hint="Separate them by commas.", param=name) from None


def _dated(result: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    import shlex
    from datetime import UTC, datetime

    from stepwell.hardware.machine import read_machine

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "stepwell " + shlex.join(sys.argv[1:]),
        "machine": read_machine().as_dict(),
        "quick": quick,
    } | result
