"""Accuracy on trap questions over time, one line an arm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.knowledge_outcome import STRETCH

_LINES = {
    "oracle": ("#666666", ":"), "honest": ("#0072b2", "-"), "wrong_10%": ("#56b4e9", "--"),
    "wrong_20%_one_person": ("#e69f00", "--"), "static": ("#666666", "-."),
    "auto_capture_alone": ("#cc79a7", "-"), "drift": ("#009e73", "-"),
    "rollback": ("#d55e00", "-"), "placebo": ("#000000", ":"), "none": ("#000000", "-"),
}  # fmt: skip
"""Okabe and Ito's palette; line styles differ too. Arms that are not named are left out."""


def plot_knowledge(document: Mapping[str, Any], path: Path) -> None:
    """Write a PNG or SVG, by the file's ending. Raises ConfigError where matplotlib is missing, the
    ending is another, or no arms were run."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise ConfigError(f"{path.name} is no .png or .svg.", param="plot")
    if "arms" not in document:
        raise ConfigError("nothing to plot.", hint="Run the part `arms`.", param="plot")
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(
            "--plot needs matplotlib.", hint="pip install 'stepwell[bench]'", param="plot"
        ) from error
    style = {"svg.hashsalt": "stepwell", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(style):
        figure, axis = pyplot.subplots(figsize=(7.5, 4.3))
        _draw(axis, document["arms"])
        figure.suptitle(_title(document), fontsize=10, x=0.01, ha="left")
        figure.tight_layout()
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=160, metadata=metadata)
        pyplot.close(figure)


def _title(document: Mapping[str, Any]) -> str:
    return (
        f"Trap questions answered before each was learnt from, {len(document['seeds'])} seeds of "
        f"{document['worlds']} worlds"
    )


def _draw(axis: Any, arms: Mapping[str, Any]) -> None:
    for name, (colour, line) in _LINES.items():
        if name not in arms:
            continue
        seen = [(place, value) for place, value in enumerate(arms[name]["curve"])
                if value is not None]  # fmt: skip
        xs = [STRETCH * (place + 0.5) for place, _ in seen]
        axis.plot(xs, [100 * value for _, value in seen], line, color=colour, label=name)
    axis.set_xlabel("requests")
    axis.set_ylabel("right, %")
    axis.set_ylim(-2, 102)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
