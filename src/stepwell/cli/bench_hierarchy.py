"""`stepwell bench hierarchy`: what the lower tiers are worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.cli.bench_result import chosen_parts, result_document, write_document
from stepwell.cli.output import moving_line, print_table

if TYPE_CHECKING:
    from stepwell.evaluate.hierarchy_bench import Section

_SUMMARY = (
    "ttft_speedup_host",
    "ttft_speedup_disk",
    "ttft_speedup_disk_restart",
    "ttft_speedup_server_restart",
    "ttft_speedup_network",
    "ttft_speedup_network_reason",
    "sick_tier_p50_ratio",
    "sick_tier_p99_ratio",
    "wrong_tokens",
    "plan_p99_ms_1m_chunks",
    "bytes_per_chunk",
)


def hierarchy(
    model: Annotated[
        str, typer.Argument(help="`house`, a checkpoint folder, or the shape `qwen`.")
    ] = "house",
    quick: Annotated[bool, typer.Option("--quick", help="At most 50 seconds.")] = False,
    only: Annotated[
        str, typer.Option(help="Parts, comma-separated: restore, sick, codecs, chats, brain.")
    ] = "restore,sick,chats,brain",
    prompt: Annotated[int, typer.Option(help="Tokens of a returning session.")] = 2048,
    workdir: Annotated[Path, typer.Option(help="For weights of shapes and the disk tier.")] = Path(
        "~/.cache/stepwell/bench"
    ),
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no tables.")
    ] = False,
) -> None:
    """Measure restoring against recomputing: each tier, sick tiers, the brain at scale.

    Example: [bold]stepwell bench hierarchy --quick[/bold]
    """
    from stepwell.evaluate.brain_bench import BrainScale
    from stepwell.evaluate.hierarchy_bench import HierarchyOptions, run_hierarchy_bench
    from stepwell.evaluate.hierarchy_chat import ChatLoad
    from stepwell.evaluate.shapes import house_folder, is_shape, make_checkpoint

    place = workdir.expanduser()
    place.mkdir(parents=True, exist_ok=True)
    if is_shape(model):
        folder = make_checkpoint(model, workdir=place / "shapes", tokenizer=house_folder())
    else:
        folder = house_folder() if model == "house" else Path(model)
    sizes: dict[str, Any] = {
        "pool": "48MiB", "host": "96MiB", "repeats": 3,
        "sick": 3, "sick_compared": 2, "sick_prompt": 2048, "brain": BrainScale(sessions=10_000),
    }  # fmt: skip
    sizes = sizes if quick else {"chats": ChatLoad(), "kill_server": True, "sick": 30}
    options = HierarchyOptions(
        folder=folder, sections=_sections(only), prompt=prompt, workdir=place, **sizes
    )
    with moving_line() as say:
        result = run_hierarchy_bench(options, say=say)
    document = result_document(result, model=model, quick=quick)
    write_document(document, out)
    summary = {name: result[name] for name in _SUMMARY if name in result}
    if not as_json:
        _show(result)
    print(json.dumps(document if as_json else {"bench": "hierarchy", "model": model} | summary))


def _sections(text: str) -> tuple[Section, ...]:
    """Those named, in the order in which they are measured."""
    from stepwell.evaluate.hierarchy_bench import Section

    return chosen_parts(text, Section)


def _show(result: dict[str, Any]) -> None:
    from stepwell.base.units import format_seconds
    from stepwell.evaluate.statistics import median

    ceiling = [(name, f"{value:.4g}") for name, value in result["ceiling"].items()]
    print_table("Ceiling: what this machine allows", ("what", "value"), ceiling)
    rows = []
    for name in ("host", "disk", "disk_restart", "server_restart", "network"):
        if name in result:
            found = result[name]
            computed, restored = median(found["computed"]), median(found["restored"])
            speedup = f"{computed / restored:.1f}x"
            rows.append((name, format_seconds(computed), format_seconds(restored), speedup))
    if rows:
        columns = ("tier", "computed", "restored", "")
        print_table("A returning session: time to first token", columns, rows)
    if "codecs" in result:
        _show_codecs(result["codecs"])
    if "sick" in result:
        sick = [
            (name, f"{row['p50_ratio']:.3f}", f"{row['p99_ratio']:.3f}", f"{row['n']:.0f}")
            for name, row in result["sick"].items()
        ]
        print_table("A sick host tier against no tiers", ("fault", "p50", "p99", "n"), sick)
    for name, title in (
        ("chats", "Chats in turn, later turns"),
        ("thinking_chats", "Chats with think time, later turns"),
    ):
        if name in result:
            _show_chats(result[name], title)
    print(f"tokens that differ: {result['wrong_tokens']}")


def _show_codecs(found: dict[str, Any]) -> None:
    from stepwell.base.units import format_seconds
    from stepwell.evaluate.statistics import median

    rows = [
        (
            name,
            format_seconds(median(row["computed"])),
            format_seconds(median(row["restored"])),
            f"{row['speedup']:.1f}x",
            f"{row['bytes_per_token']:,.0f}",
            f"{row['other']} of {row['replied']}",
            f"{row['kept_exact']}",
        )
        for name, row in found.items()
    ]
    columns = ("codec", "computed", "restored", "", "bytes a token", "other tokens", "kept exact")
    print_table("A returning session from disk, by codec", columns, rows)


def _show_chats(found: dict[str, Any], title: str) -> None:
    from stepwell.base.units import format_seconds

    rows = [
        (
            name,
            f"{found[name]['output_tokens_per_s']:.1f}",
            format_seconds(found[name]["p50_ttft_s"]),
            format_seconds(found[name]["p99_ttft_s"]),
            f"{found[name]['sessions_within_1_s']:.0f} of {found['load']['sessions']}",
        )
        for name in ("off", "host")
    ]
    columns = ("tiers", "tokens/s", "TTFT p50", "TTFT p99", "sessions within 1 s")
    print_table(title, columns, rows)
