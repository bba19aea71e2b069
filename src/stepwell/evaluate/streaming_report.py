"""What the samples of `stepwell bench streaming` amount to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.evaluate.options import Section
from stepwell.evaluate.statistics import median

OWN, RIVAL = "stepwell", "accelerate"


def streaming_section(
    samples: Sequence[dict[str, Any]],
    *,
    weights: int,
    limit: int,
    how: str,
    peaks: dict[str, int | None],
) -> Section:
    """The table and its figures, from all samples of all rounds. `peaks`: most bytes that each
    engine's processes held, None where nobody counted."""
    names = list(dict.fromkeys(sample["engine"] for sample in samples))
    figures: dict[str, Any] = {
        "weights_bytes": weights,
        "limit_bytes": limit,
        "disk_read_gbps": _disk(samples, OWN) / 1e9,
        "peak_share_of_limit": (peaks[OWN] or 0) / limit,
    }
    rows = []
    for part in dict.fromkeys(s["part"] for s in samples if s["part"] != "read"):
        batch = part.removeprefix("batch ")
        figures[f"disk_share_batch{batch}"] = _share(samples, OWN, part, _whole_rate)
        figures[f"disk_share_decoding_batch{batch}"] = _share(samples, OWN, part, _decode_rate)
        for name in (name for name in names if _of(samples, name, part)):
            speed = _median(samples, name, part, lambda s: s["tokens_per_second"])
            figures[f"{name.replace(' ', '_')}_tps_batch{batch}"] = speed
            ratio = _paired(samples, OWN, name, part)
            if name == RIVAL:
                for own in (n for n in names if n != RIVAL and _of(samples, n, part)):
                    key = f"{own.replace(' ', '_')}_over_{RIVAL}_batch{batch}"
                    figures[key] = _paired(samples, own, RIVAL, part)
            shares = ["-", "-"]
            if name != RIVAL:
                rates = (_whole_rate, _decode_rate)
                shares = [f"{_share(samples, name, part, rate):.0%}" for rate in rates]
            peak = peaks[name]
            rows.append((
                part, name, f"{speed:.2f}", "-" if name == OWN else f"{ratio:.2f}", *shares,
                "-" if peak is None else format_bytes(peak),
            ))  # fmt: skip
    title = (
        f"{format_bytes(weights)} of weights, {format_bytes(limit)} of memory ({how}); "
        f"the disk gives {figures['disk_read_gbps']:.2f} GB/s to the same reads"
    )
    columns = (
        "part", "engine", "tokens/s", "stepwell / it", "of the disk", "of it decoding",
        "peak memory",
    )  # fmt: skip
    return Section("larger-than-memory", title, columns, tuple(rows), figures)


def _disk(samples: Sequence[dict[str, Any]], name: str) -> float:
    return median([x for s in _of(samples, name, "read") for x in s["bytes_per_second"]])


def _share(
    samples: Sequence[dict[str, Any]], name: str, part: str, rate: Callable[[dict[str, Any]], float]
) -> float:
    """A rate of reading against the disk's best speed in the same round."""
    disk: dict[int, float] = {}
    for s in _of(samples, name, "read"):
        disk[s["round"]] = max(disk.get(s["round"], 0.0), median(s["bytes_per_second"]))
    runs = _of(samples, name, part)
    return median([rate(s) / disk[s["round"]] for s in runs])


def _whole_rate(sample: dict[str, Any]) -> float:
    """Bytes read over the time of the whole run, prompts included."""
    return float(sample["read_bytes"] / sample["seconds"])


def _decode_rate(sample: dict[str, Any]) -> float:
    """The same from when the last prompt had been computed."""
    return float(sample["decode_bytes_per_second"])


def _paired(samples: Sequence[dict[str, Any]], above: str, below: str, part: str) -> float:
    """One's tokens/s over another's, paired by round."""
    ones = {s["round"]: s["tokens_per_second"] for s in _of(samples, above, part)}
    others = [s for s in _of(samples, below, part) if s["round"] in ones]
    return median([ones[s["round"]] / s["tokens_per_second"] for s in others])


def _median(
    samples: Sequence[dict[str, Any]], name: str, part: str, of: Callable[[dict[str, Any]], float]
) -> float:
    return median([of(sample) for sample in _of(samples, name, part)])


def _of(samples: Sequence[dict[str, Any]], name: str, part: str) -> list[dict[str, Any]]:
    return [s for s in samples if s["engine"] == name and s["part"] == part]
