"""One picture of a run: who is how fast, and how long people wait."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError


def plot_result(document: Mapping[str, Any], path: Path) -> None:
    """Throughput bars with their range and ceiling, and the share of requests answered by a time.

    Raises ConfigError where matplotlib is missing or nothing was measured that can be drawn.
    """
    sections = document["sections"]
    panels = [name for name in ("throughput", "load") if name in sections]
    if not panels:
        raise ConfigError("nothing to plot.", hint="Run throughput or load.", param="plot")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib.", hint="pip install 'stepwell[bench]'", param="plot"
        ) from error
    figure, axes = pyplot.subplots(1, len(panels), figsize=(6 * len(panels), 4), squeeze=False)
    draw = {"throughput": _throughput, "load": _waiting}
    for axis, name in zip(axes[0], panels, strict=True):
        draw[name](axis, sections[name])
    figure.suptitle(f"{document['summary']['model']}, {document['machine']['cpu']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _throughput(axis: Any, figures: Mapping[str, Any]) -> None:
    rates = figures["output_tokens_per_s"]
    names = list(rates)[::-1]
    medians = [rates[name]["median"] for name in names]
    low = [rates[name]["median"] - rates[name]["low"] for name in names]
    high = [rates[name]["high"] - rates[name]["median"] for name in names]
    axis.barh(names, medians, xerr=[low, high], color="#4477aa")
    axis.axvline(figures["bound_output_tokens_per_s"], color="#aa3377", label="ceiling")
    axis.set_xlabel("output tokens/s (median and range)")
    axis.legend()


def _waiting(axis: Any, figures: Mapping[str, Any]) -> None:
    waits = sorted(figures["records_ttft_s"])
    shares = [(i + 1) / len(waits) for i in range(len(waits))]
    axis.step(waits, shares, where="post", color="#4477aa")
    axis.axvline(figures["slo"]["ttft_s"], color="#aa3377", label="SLO")
    axis.set_xlabel("time to first token from due, s")
    axis.set_ylabel("share of requests")
    axis.legend()
