"""Rate and distortion as a picture: divergence and recall against stored bytes a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.quality_stats import MARGIN

_COLOURS = {
    "kvtc": "#0072b2", "kvtc-paper": "#d55e00", "int8": "#009e73", "int4": "#cc79a7",
    "fp8": "#56b4e9", "lossless": "#e69f00", "raw": "#666666",
}  # fmt: skip
"""Okabe and Ito's palette, told apart with every common colour blindness; markers differ too."""
_MARKERS = {"kvtc": "o", "kvtc-paper": "s", "int8": "D", "int4": "v", "fp8": "^", "lossless": "P"}
_BELOW = ("int8", "raw")  # labels of neighbours on the axis of bytes
_GREY = "#777777"
_LEAST_KL = 1e-7  # where nothing differs at all
_RATIOS = (2, 4, 8, 16, 32, 64, 128)
Row = Mapping[str, Any]
Place = tuple[int, int]


def plot_quality(document: Mapping[str, Any], path: Path) -> None:
    """Write a PNG or SVG, by the file's ending. Raises ConfigError where matplotlib is missing or
    the ending is another."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"{path.name} is no .png or .svg.", param="plot")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib.", hint="pip install 'stepwell[bench]'", param="plot"
        ) from error
    rows = _one_protocol(document["settings"])
    panels = [name for name in ("fidelity", "recall_all") if any(name in row for row in rows)]
    style = {"svg.hashsalt": "stepwell", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(
            1, max(1, len(panels)), figsize=(5.6 * max(1, len(panels)), 4.3), squeeze=False
        )
        draw = {"fidelity": _divergence, "recall_all": _recall}
        for axis, name in zip(axes[0], panels, strict=False):
            _bytes_axis(axis, document["uncompressed_bytes_per_token"])
            draw[name](axis, [row for row in rows if name in row], document)
        figure.suptitle(_title(document, rows), fontsize=10, x=0.01, ha="left")
        figure.tight_layout()
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=160, metadata=metadata)
        pyplot.close(figure)


def _one_protocol(rows: Sequence[Row]) -> list[Row]:
    """Rows with the first one's sinks and window."""
    first = (rows[0]["sinks"], rows[0]["window"])
    found = [row for row in rows if (row["sinks"], row["window"]) == first]
    return [row for row in found if "bytes_per_coded_token" in row["bytes"]]


def _title(document: Mapping[str, Any], rows: Sequence[Row]) -> str:
    spared = f"{rows[0]['sinks']} sinks and the last {rows[0]['window']} exact" if rows else ""
    return (
        f"{document['model']} ({document['parameters'] / 1e6:.3g} M parameters), contexts of "
        f"{document['context_tokens']} tokens, {spared}"
    )


def _bytes_axis(axis: Any, raw: int) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xlabel("stored bytes per encoded token, all headers counted")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.axvline(raw, color=_GREY, linewidth=0.8, linestyle=":")
    axis.annotate(
        f"uncompressed, {raw:,}", (raw, 0.5), xycoords=("data", "axes fraction"), rotation=90,
        ha="left", va="center", color=_GREY, fontsize=8, textcoords="offset points", xytext=(2, 0),
    )  # fmt: skip
    top = axis.secondary_xaxis("top")  # the same places, named by their ratio
    top.set_xticks([raw / ratio for ratio in _RATIOS], [f"{ratio}x" for ratio in _RATIOS])
    top.minorticks_off()
    top.tick_params(colors=_GREY, labelsize=8)
    top.spines["top"].set_visible(False)


def _curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["codec"], []).append(row)
    for curve in found.values():
        curve.sort(key=lambda row: row["bytes"]["bytes_per_coded_token"])
    return found


def _divergence(axis: Any, rows: Sequence[Row], document: Mapping[str, Any]) -> None:
    axis.set_yscale("log")
    for codec, curve in _curves(rows).items():
        xs = [row["bytes"]["bytes_per_coded_token"] for row in curve]
        means = [max(_LEAST_KL, row["fidelity"]["kl_mean"]) for row in curve]
        tails = [max(_LEAST_KL, row["fidelity"]["kl_p99"]) for row in curve]
        colour, marker = _COLOURS.get(codec, _GREY), _MARKERS.get(codec, "x")
        axis.plot(xs, means, color=colour, marker=marker, markersize=5)
        axis.plot(xs, tails, color=colour, linewidth=0.8, alpha=0.5, linestyle="--")
        if len(curve) > 1:
            axis.annotate("p99", (xs[-1], tails[-1]), color=colour, fontsize=7,
                          textcoords="offset points", xytext=(4, 2))  # fmt: skip
        place = (-4, 8) if len(curve) > 1 else (0, -15 if codec in _BELOW else 8)
        _label(axis, codec, (xs[0], means[0]), colour, place)
    axis.axhline(_LEAST_KL, color=_GREY, linewidth=0.8, linestyle=":")
    axis.annotate("identical predictions", (0.02, _LEAST_KL), fontsize=8, color=_GREY,
                  xycoords=("axes fraction", "data"), textcoords="offset points",
                  xytext=(0, 3))  # fmt: skip
    axis.set_title("KL(vanilla ‖ restored), nats a token: mean, and p99 dashed",
                   loc="left", fontsize=9)  # fmt: skip


def _recall(axis: Any, rows: Sequence[Row], document: Mapping[str, Any]) -> None:
    """Differences, since settings may have been asked different questions."""
    from matplotlib import ticker

    for codec, curve in _curves(rows).items():
        xs = [row["bytes"]["bytes_per_coded_token"] for row in curve]
        ys = [100 * row["recall_all"]["difference"] for row in curve]
        edges = [row["recall_all"]["difference_tango_95"] for row in curve]
        low = [y - 100 * edge[0] for y, edge in zip(ys, edges, strict=True)]
        high = [100 * edge[1] - y for y, edge in zip(ys, edges, strict=True)]
        colour, marker = _COLOURS.get(codec, _GREY), _MARKERS.get(codec, "x")
        axis.errorbar(xs, ys, yerr=[low, high], color=colour, marker=marker, markersize=5,
                      capsize=2, elinewidth=0.8)  # fmt: skip
        place = (8, -4) if len(curve) > 1 else (0, -34 if codec in _BELOW else 26)
        _label(axis, codec, (xs[0], ys[0]), colour, place)
    axis.set_yscale("symlog", linthresh=2, linscale=1)
    axis.set_yticks([-50, -20, -10, -5, -2, -1, 0, 1, 2])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:+.0f}" if value else "0")
    axis.yaxis.set_minor_locator(ticker.NullLocator())
    axis.set_ylim(bottom=1.25 * min(100 * _lower(row) for row in rows), top=2)
    vanilla = [100 * row["recall_all"]["vanilla_accuracy"] for row in rows]
    lowest = -100 * MARGIN
    axis.axhspan(lowest, 0, color="#dddddd", alpha=0.5, linewidth=0)
    axis.axhline(0, color=_GREY, linewidth=0.8, linestyle=":")
    for level, text, side in (
        (0, f"vanilla,\n{sum(vanilla) / len(vanilla):.1f} %", "bottom"),
        (lowest, "one point\nbelow", "top"),
    ):
        axis.annotate(text, (1.01, level), xycoords=("axes fraction", "data"), fontsize=8,
                      color=_GREY, va=side)  # fmt: skip
    tasks = ", ".join(document["vanilla"]["recall"])
    axis.set_title(f"questions answered, points from vanilla ({tasks}; n = {_counts(rows)})",
                   loc="left", fontsize=9)  # fmt: skip


def _lower(row: Row) -> float:
    return min(-MARGIN, float(row["recall_all"]["difference_tango_95"][0]))


def _counts(rows: Sequence[Row]) -> str:
    found = sorted({row["recall_all"]["n"] for row in rows})
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,} to {found[-1]:,}"


def _label(axis: Any, codec: str, at: tuple[float, float], colour: str, place: Place) -> None:
    """The codec's name beside a point, `place` in points."""
    axis.annotate(codec, at, color=colour, fontsize=9, fontweight="bold",
                  textcoords="offset points", xytext=place,
                  ha="center" if place[0] == 0 else "left")  # fmt: skip
