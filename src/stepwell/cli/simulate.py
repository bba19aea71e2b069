"""`stepwell simulate TRACE`: the serving policies under virtual time, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.base.errors import ConfigError
from stepwell.base.units import format_bytes, format_seconds, parse_bytes
from stepwell.cli import options
from stepwell.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from stepwell.simulate.compare import OnRun, Run

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command(no_args_is_help=True)
def simulate(
    trace: Annotated[
        str,
        typer.Argument(
            help="A Mooncake trace, one of `stepwell serve --record`, or synthetic:COUNT."
        ),
    ],
    capacity: Annotated[
        str,
        typer.Option(help="Device and host as one cache: shares of the trace's distinct blocks."),
    ] = "0.05",
    policy: Annotated[str, typer.Option(help="value, lru, s3fifo, belady.")] = "value,lru",
    tier: Annotated[
        list[str] | None,
        typer.Option(help="A tier with its real link instead of --capacity, host=64GiB; repeat."),
    ] = None,
    device: Annotated[str, typer.Option(help="The device's own cache, with --tier.")] = "0",
    hardware: Annotated[
        str, typer.Option(help="a100-80, h100, h200, or a JSON file of measured rates.")
    ] = "h100",
    model: Annotated[str, typer.Option(help="Shape that sets bytes and FLOPs.")] = "llama-3.1-8b",
    codec: Annotated[
        str, typer.Option(help="raw, or NAME=RATIO@SPEED, such as lossless=1.4@3GiB.")
    ] = "raw",
    limit: Annotated[int, typer.Option(help="Only the first requests; 0: all.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw hit rates: FILE.png.")] = None,
    explain: options.Explain = False,
    as_json: options.Json = False,
) -> None:
    """Ask what a cache of another size, policy, codec or machine would give.

    Example: [bold]stepwell simulate conversation.jsonl --capacity 0.01,0.05,0.1 --policy
    lru,s3fifo,value,belady[/bold]

    With links: [bold]stepwell simulate trace.jsonl --tier host=64GiB --tier disk=1TiB[/bold]
    """
    from stepwell.simulate import compare as work

    wanted = work.Comparison(
        policies=_words(policy),
        capacities=tuple(_share(word) for word in _words(capacity)),
        tiers=tuple(work.parse_tier(text) for text in tier or ()),
        codecs=tuple(work.parse_codec(word) for word in _words(codec)),
        hardware=hardware,
        model=model,
        device=parse_bytes(device),
    )
    opened = work.open_trace(trace, limit=limit)
    with _progress() as on_run:
        runs, distinct = work.compare(opened, wanted, on_run=on_run)
    document = {
        "trace": opened.name,
        "requests": len(opened.requests),
        "block_tokens": opened.block_tokens,
        "distinct_blocks": distinct,
        "hardware": hardware,
        "model": model,
        "runs": [run.as_dict() for run in runs],
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from stepwell.simulate.plot import plot_runs

        plot_runs(runs, plot)
    if as_json:
        print_json(document)
        return
    _show(runs, timed=bool(wanted.tiers))
    if explain:
        _explain(runs)


def _show(runs: list[Run], *, timed: bool) -> None:
    columns = ["policy", "capacity", "codec", "block hit rate", "saved tokens", "saved prefill"]
    columns += ["TTFT p50", "p95", "p99", "loaded", "stored", "$/M tokens"] if timed else []
    rows = []
    for run in runs:
        result = run.result
        row = [
            result.policy,
            "tiers" if run.capacity is None else f"{run.capacity:.1%}",
            run.codec,
            f"{result.block_hit_rate:.4f}",
            f"{result.saved_tokens:,}",
            format_seconds(result.saved_seconds),
        ]
        if timed:
            times = (result.ttft_p50, result.ttft_p95, result.ttft_p99)
            row += [format_seconds(seconds) for seconds in times]
            moved = result.bytes.items()
            row += [" ".join(f"{name} {format_bytes(b[i])}" for name, b in moved) for i in (0, 1)]
            row.append(f"{result.dollars_per_million:.4f}")
        rows.append(row)
    print_table("Simulated", columns, rows)


def _explain(runs: list[Run]) -> None:
    rows = [
        (run.label, decision.value, decision.because, decision.predicted, decision.actual)
        for run in runs
        for decision in run.result.stats.decisions[-5:]
    ]
    columns = ("run", "choice", "because", "predicted", "actual")
    print_table("Last restore plans of each run", columns, rows)


@contextmanager
def _progress() -> Iterator[OnRun]:
    """A bar on a terminal, a line a run elsewhere; on stderr."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def say(label: str, done: int, total: int) -> None:
            if label not in seen:
                seen.add(label)
                note(f"simulating {label}: {total} requests")

        yield say
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, int] = {}

        def update(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = progress.add_task(label, total=total)
            progress.update(tasks[label], completed=done)  # type: ignore[arg-type]

        yield update


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share:
        raise ConfigError(f"capacity {text!r} is no share.", hint="0.05", param="capacity")
    return share
