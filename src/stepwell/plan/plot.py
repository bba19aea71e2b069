"""One picture of a plan: KV by length against what is free, and tokens/s by batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError

_SUFFIXES = (".png", ".svg")


def plot_plan(document: Mapping[str, Any], path: Path) -> None:
    """Write PNG or SVG, by the file's ending. Raises ConfigError."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"cannot draw {path.name}.", hint="FILE.png or FILE.svg.", param="plot")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib.", hint="pip install 'stepwell[bench]'", param="plot"
        ) from error
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4))
    _memory(axes[0], document)
    _speed(axes[1], document)
    device = document["device"]
    figure.suptitle(f"{document['model']['name']} on {device['count']} x {device['title']}")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _memory(axis: Any, document: Mapping[str, Any]) -> None:
    lines = {"ideal": document["contexts"], **document["contexts_in_engines"]}
    for name, sizes in lines.items():
        if "refused" not in sizes:
            lengths = [int(length) for length in sizes]
            axis.plot(lengths, [size / 1e9 for size in sizes.values()], marker=".", label=name)
    if document["free_bytes"]:
        axis.axhline(document["free_bytes"] / 1e9, color="#aa3377", label="free")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("tokens of one sequence")
    axis.set_ylabel("KV, GB")
    axis.legend()


def _speed(axis: Any, document: Mapping[str, Any]) -> None:
    rows = document["roofline"]["by_batch"]
    batches = [row["batch"] for row in rows]
    rates = {name: [row["tokens_per_s"][name] for row in rows] for name in rows[0]["tokens_per_s"]}
    axis.plot(batches, rates["bound"], color="#aa3377", label="bound")
    axis.plot(batches, rates["likely"], color="#4477aa", marker=".", label="likely")
    axis.fill_between(batches, rates["low"], rates["high"], color="#4477aa", alpha=0.2)
    axis.set_xscale("log", base=2)
    axis.set_xlabel(f"sequences of {document['roofline']['context']:,} tokens at once")
    axis.set_ylabel("decoded tokens/s")
    axis.legend()
