"""From samples to tables and the flat summary. Medians over rounds; a ratio is the median of the
ratios of those rounds in which both took part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.base.units import format_bytes, format_seconds
from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.options import Section
from stepwell.evaluate.sections import rate_rows
from stepwell.evaluate.speed_bounds import bytes_per_token
from stepwell.evaluate.speed_options import PLAIN, STEPWELL, Part
from stepwell.evaluate.statistics import Spread, median, median_ratio

_TITLES = {
    Part.DECODE: "Decoding one sequence",
    Part.PREFILL: "A long prompt",
    Part.BATCH: "32 mixed requests",
    Part.LONG: "Decoding after a very long prompt",
}
_NAMES = {Part.DECODE: "decode", Part.PREFILL: "prefill", Part.BATCH: "batch32", Part.LONG: "long"}
_FORMATS = ("bf16", "lossless", "int8", "int4")


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant's turn. `share`: of the bound by the ceiling measured beside it."""

    round: int
    part: str
    variant: str
    figures: dict[str, Any]
    share: float | None
    ceiling: dict[str, Any]


def ceiling_section(ceiling: Ceiling, cost: ModelCost) -> Section:
    """What the machine does as the run begins."""
    rows = (
        *rate_rows(ceiling),
        ("weights that a step reads in bf16", format_bytes(cost.decode_bytes)),
        ("so one sequence decodes at most", f"{cost.decode_bound(ceiling):,.1f} tokens/s"),
    )
    title = "Ceiling: what this machine allows; measured again beside every part"
    return Section("ceiling", title, ("what", "value"), rows, {})


def part_section(
    part: Part, samples: Sequence[Sample], loaded: Mapping[str, Any], order: Sequence[str]
) -> Section:
    """A row for each contestant."""
    rows, mine = [], [sample for sample in samples if sample.part == part.value]
    cost = ModelCost(**loaded[PLAIN.label]["cost"])
    for label in order:
        own = [sample for sample in mine if sample.variant == label]
        if not own:
            continue
        spread = Spread.of([sample.figures["tokens_per_s"] for sample in own])
        shares = [sample.share for sample in own if sample.share is not None]
        rows.append((
            label,
            f"{spread.median:,.1f} ({spread.low:,.1f} to {spread.high:,.1f}, n={spread.n})",
            f"{median(shares):.0%}" if shares else "-",
            format_bytes(bytes_per_token(loaded[label], cost)),
            _times(ratio(mine, rival_of(label), label) if _is_rival(label) else None),
            _times(ratio(mine, label, PLAIN.label) if _is_low_bit(label) else None),
        ))  # fmt: skip
    columns = (
        "engine, weights",
        "tokens/s",
        "of the bound",
        "weights read",
        "Stepwell is",
        "x bf16",
    )
    return Section(part.value, _title(part, mine), columns, tuple(rows), {})


def _title(part: Part, samples: Sequence[Sample]) -> str:
    shares = {sample.figures.get("lengths", 1.0) for sample in samples}
    cut = ", ".join(f"{share:g}" for share in sorted(shares - {1.0}))
    return _TITLES[part] + (f" (lengths x {cut}: no time for all)" if cut else "")


def start_section(start: Mapping[str, Any]) -> Section:
    """Load to first token."""
    rows = (
        ("process to first token, warm cache", format_seconds(start["first_token_s"]["median"])),
        ("the same with nothing compiled", format_seconds(start["first_use_s"])),
        ("so compiling takes, once", format_seconds(start["compile_s"])),
    )
    return Section("start", f"`{start['command']}`", ("what", "seconds"), rows, {})


def rival_of(label: str) -> str:
    """Stepwell with the same weights as this contestant."""
    return f"{STEPWELL} {label.split()[1]}"


def ratio(samples: Sequence[Sample], above: str, below: str) -> float | None:
    """Of the rates of two contestants in the rounds they share; None where they share none."""
    rates = {
        label: {s.round: s.figures["tokens_per_s"] for s in samples if s.variant == label}
        for label in (above, below)
    }
    rounds = sorted(set(rates[above]) & set(rates[below]))
    if not rounds:
        return None
    return median_ratio([rates[above][r] for r in rounds], [rates[below][r] for r in rounds])


def _is_rival(label: str) -> bool:
    return not label.startswith(STEPWELL)


def _is_low_bit(label: str) -> bool:
    return not _is_rival(label) and label != PLAIN.label


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def summarize(
    samples: Sequence[Sample], loaded: Mapping[str, Any], start: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Flat figures of Stepwell by format, None where not measured; `rivals`: Stepwell's rate over
    each rival's."""
    summary = _rates(samples)
    for part, name in _NAMES.items():
        mine = [sample for sample in samples if sample.part == part.value]
        for weights in _FORMATS:
            own = [sample for sample in mine if sample.variant == f"{STEPWELL} {weights}"]
            rates = [sample.figures["tokens_per_s"] for sample in own]
            shares = [sample.share for sample in own if sample.share is not None]
            summary[f"{name}_tps_{weights}"] = median(rates) if rates else None
            summary[f"{name}_share_of_bound_{weights}"] = median(shares) if shares else None
            if weights != PLAIN.weights:
                label = f"{STEPWELL} {weights}"
                summary[f"{name}_{weights}_over_bf16"] = ratio(mine, label, PLAIN.label)
    for weights in _FORMATS[1:]:
        told = loaded.get(f"{STEPWELL} {weights}", {}).get("weights")
        share = told["linear"] / told["linear_plain"] if told else None
        summary[f"weights_bytes_{weights}_share"] = share
    summary["warm_ttft_s_bf16"] = warm_ttft(samples, PLAIN.label)
    summary["first_token_s"] = start["first_token_s"]["median"] if start else None
    summary["compile_s"] = start["compile_s"] if start else None
    return summary | {"rivals": _rivals(samples)}


def _rates(samples: Sequence[Sample]) -> dict[str, Any]:
    """Median ceilings over the run."""
    beside = [sample.ceiling for sample in samples]

    def middle(name: str, unit: float) -> float | None:
        values = [float(ceiling[name]) / unit for ceiling in beside if ceiling[name]]
        return median(values) if values else None

    return {
        "read_gbps": middle("bandwidth_all", 1e9),
        "read_beside_decode_gbps": _read_beside(samples),
        "read_gbps_one_thread": middle("bandwidth_one", 1e9),
        "gemm_tflops": middle("flops_all", 1e12),
        "int8_gemm_tops": middle("int8_all", 1e12),
    }


def _read_beside(samples: Sequence[Sample]) -> float | None:
    """GB/s, the median over pieces of bf16's decoding."""
    mine = [s for s in samples if (s.part, s.variant) == (Part.DECODE.value, PLAIN.label)]
    rates = [piece["read_rate"] / 1e9 for s in mine for piece in s.figures.get("pieces", ())]
    return median(rates) if rates else None


def _rivals(samples: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    labels = dict.fromkeys(s.variant for s in samples if _is_rival(s.variant))
    found: dict[str, dict[str, float | None]] = {}
    for label in labels:
        ratios = {
            name: ratio([s for s in samples if s.part == part.value], rival_of(label), label)
            for part, name in _NAMES.items()
        }
        found[label] = {name: value for name, value in ratios.items() if value is not None}
        found[label]["warm_ttft_s"] = warm_ttft(samples, label)
    return found


def warm_ttft(samples: Sequence[Sample], label: str) -> float | None:
    """Seconds to the first token of a prompt that was seen before."""
    values = [
        sample.figures["warm_ttft_s"]
        for sample in samples
        if sample.variant == label and "warm_ttft_s" in sample.figures
    ]
    return median(values) if values else None
