"""`stepwell bench codec`: how small, how right and how fast codecs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.base.units import format_bytes
from stepwell.cli.bench_result import chosen_parts, result_document, write_document
from stepwell.cli.output import moving_line, note, print_table

if TYPE_CHECKING:
    from stepwell.evaluate.codec_run import Part

_SUMMARY = (
    "bytes_vs_kvtc_paper_4x",
    "bytes_vs_kvtc_paper_8x",
    "bytes_vs_kvtc_paper_16x",
    "bytes_vs_kvtc_paper_32x",
    "bytes_vs_kvtc_paper_64x",
    "bytes_vs_kvtc_paper_8x_apart",
    "bytes_vs_kvtc_paper_16x_apart",
    "bytes_vs_kvtc_paper_32x_apart",
    "lossless_ratio",
    "lossless_gbps_core",
    "zlib6_ratio",
    "zlib6_encode_gbps",
    "zlib6_decode_gbps",
    "entropy_gbps_core",
    "entropy_zlib6_encode_gbps",
    "entropy_zlib6_decode_gbps",
    "calibration_s",
    "calibration_tokens",
)


def codec(
    model: Annotated[str, typer.Argument(help="`house` or a checkpoint folder.")] = "house",
    quick: Annotated[bool, typer.Option("--quick", help="At most 50 seconds.")] = False,
    only: Annotated[
        str, typer.Option(help="Parts, comma-separated: pieces, contest, variants, shapes.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Which texts.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write all figures to this JSON file.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as one JSON line, no tables.")
    ] = False,
) -> None:
    """Measure codecs on a model's own cache: bytes at equal error, and speed a core.

    Example: [bold]stepwell bench codec --quick[/bold]

    A large model's shape: [bold]stepwell bench codec --only shapes[/bold]

    `bytes_vs_kvtc_paper_16x`: the paper's bytes at nominal 16x over ours at its error.
    """
    from stepwell.evaluate.codec_run import (
        FULL,
        QUICK,
        QUICK_LEAVES_OUT,
        CodecOptions,
        run_codec_bench,
    )
    from stepwell.evaluate.shapes import house_folder

    options = CodecOptions(
        folder=house_folder() if model == "house" else Path(model),
        parts=_parts(only or ("pieces,contest" if quick else "pieces,contest,variants")),
        scale=QUICK if quick else FULL,
        seed=seed,
    )
    with moving_line() as say:
        result = run_codec_bench(options, say=say)
    if quick:
        result = {"quick_leaves_out": QUICK_LEAVES_OUT} | result
    document = result_document(result, model=model, quick=quick)
    write_document(document, out)
    if not as_json:
        _show(result)
    if quick:
        note(f"--quick leaves out: {QUICK_LEAVES_OUT}.")
    summary = {name: result[name] for name in _SUMMARY if name in result}
    print(json.dumps(document if as_json else {"bench": "codec", "model": model} | summary))


def _parts(text: str) -> tuple[Part, ...]:
    """Those named, in the order in which they are measured."""
    from stepwell.evaluate.codec_run import Part

    return chosen_parts(text, Part)


def _show(result: dict[str, Any]) -> None:
    ceiling = [(name, f"{value:.4g}") for name, value in result["ceiling"].items()]
    print_table("Ceiling: what this machine allows", ("what", "value"), ceiling)
    _show_pieces(result)
    contest = result.get("contest") or result.get("variants")
    if contest is not None:
        rows = [_contest_row(row) for row in contest["held_out"]]
        columns = ("nominal", "error", "paper's bytes", "ours", "paper / ours", "apart")
        print_table("Bytes a token at equal error, held-out text", columns, rows)
    if "shapes" in result:
        _show_shapes(result)
    if "calibration_s" in result:
        seconds, tokens = result["calibration_s"], result["calibration_tokens"]
        print(f"calibrated for all ratios in {seconds:.1f} s with {tokens:,} tokens")


def _contest_row(row: dict[str, Any]) -> tuple[str, ...]:
    gains, ours = row["paper_over_kvtc"], row["kvtc_joint_each_error"]
    return (
        f"{row['nominal_ratio']}x",
        f"{row['paper']['total_error']:.2%}",
        f"{row['paper']['bytes_per_token']:.1f}",
        f"{ours['bytes_per_token']:.1f}",
        f"{gains['both_joint']:.2f}",
        f"{gains['both_apart']:.2f}" if "both_apart" in gains else "",
    )


def _show_pieces(result: dict[str, Any]) -> None:
    if "lossless_ratio" not in result:
        return
    rows = []
    for name, ratio, encode, decode in (
        ("lossless", "lossless_ratio", "lossless_encode_gbps", "lossless_decode_gbps"),
        ("  on the engine's chunk", "lossless_ratio_engine_chunk",
         "lossless_encode_gbps_engine_chunk", "lossless_decode_gbps_engine_chunk"),
        ("zlib 6", "zlib6_ratio", "zlib6_encode_gbps", "zlib6_decode_gbps"),
        ("kvtc's entropy coder", "", "entropy_encode_gbps", "entropy_decode_gbps"),
        ("zlib 6 on its symbols", "", "entropy_zlib6_encode_gbps", "entropy_zlib6_decode_gbps"),
    ):  # fmt: skip
        smaller = f"{result[ratio]:.3f}x" if ratio else ""
        rows.append((name, smaller, f"{result[encode]:.3g}", f"{result[decode]:.3g}"))
    columns = ("codec", "smaller", "GB/s in", "GB/s out")
    print_table("On one core, bytes of K,V", columns, rows)


def _show_shapes(result: dict[str, Any]) -> None:
    rows = []
    for shape in result["shapes"]:
        for rung in shape["rungs"]:
            rows.append((
                f"{shape['groups']}", f"{rung['coded_each']:,}", f"{rung['ratio']:.0f}x",
                f"{rung['encode_tokens_per_s']:.0f}", f"{rung['decode_tokens_per_s']:.0f}",
                format_bytes(2 * shape["working_bytes_each"]),
                format_bytes(shape["matrix_entries_each"] * shape["matrix_bits_per_entry"] / 4),
            ))  # fmt: skip
    columns = ("groups", "coded", "ratio", "tokens/s in", "tokens/s out", "memory", "matrices")
    title = f"p = {result['shapes'][0]['features_each']:,} each, synthetic rows, this CPU"
    print_table(title, columns, rows)
    limits = [
        (f"{limit['groups']}", f"{limit['encode_tokens_per_s']:,.0f}",
         f"{limit['decode_tokens_per_s']:,.0f}")
        for limit in result["accelerator"]["bounds"]
    ]  # fmt: skip
    title = f"{result['accelerator']['name']}: tokens/s it cannot exceed, transform alone"
    print_table(title, ("groups", "in", "out"), limits)
