"""A result of `stepwell bench speed` as lines of Markdown: one row for each contestant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stepwell.base.units import format_bytes, format_seconds
from stepwell.evaluate.ceiling import ModelCost
from stepwell.evaluate.speed_bounds import bytes_per_token
from stepwell.evaluate.speed_options import PLAIN, STEPWELL, Part
from stepwell.evaluate.speed_summary import Sample, ratio, rival_of, warm_ttft
from stepwell.evaluate.statistics import Spread, median

_COLUMNS = {
    Part.DECODE: "decode, tokens/s",
    Part.PREFILL: "prompt of 2,048, tokens/s",
    Part.BATCH: "32 mixed requests, output tokens/s",
    Part.LONG: "decode after 32,000, tokens/s",
}


def result_table(result: dict[str, Any]) -> list[str]:
    """Medians with their range; for Stepwell the median share of the bound, for rivals how many
    times as fast Stepwell with the same weights was in the same rounds."""
    samples = [Sample(**sample) for sample in result["samples"]]
    parts = [part for part in _COLUMNS if any(s.part == part.value for s in samples)]
    head = ["engine, weights", "weights read", *(_COLUMNS[part] for part in parts), "warm TTFT"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    cost = ModelCost(**result["loaded"][PLAIN.label]["cost"])
    for label in sorted({s.variant for s in samples}, key=_rank):
        read = format_bytes(bytes_per_token(result["loaded"][label], cost))
        cells = [_cell([s for s in samples if s.part == part.value], label) for part in parts]
        warm = warm_ttft(samples, label)
        seen = "-" if warm is None else format_seconds(warm)
        lines.append(f"| {' | '.join((label, read, *cells, seen))} |")
    return lines


def _rank(label: str) -> tuple[int, bool, str]:
    """By format, Stepwell first."""
    formats = ("bf16", "lossless", "int8", "int4")
    return formats.index(label.split()[1]), not label.startswith(STEPWELL), label


def _cell(samples: Sequence[Sample], label: str) -> str:
    mine = [sample for sample in samples if sample.variant == label]
    if not mine:
        return "-"
    spread = Spread.of([sample.figures["tokens_per_s"] for sample in mine])
    text = f"{spread.median:,.0f}"
    if spread.n > 1:
        text += f" ({spread.low:,.0f} to {spread.high:,.0f})"
    if label.startswith(STEPWELL):
        shares = [sample.share for sample in mine if sample.share is not None]
        return f"{text}, {median(shares):.0%}" if shares else text
    times = ratio(samples, rival_of(label), label)
    return text if times is None else f"{text}, {times:.2f}x"
