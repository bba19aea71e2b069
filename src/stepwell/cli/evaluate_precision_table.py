"""The tables of `stepwell evaluate precision` and `sensitivity`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.cli.output import print_table

Row = Mapping[str, Any]
_SHOWN = 12  # units: all are in the JSON


def show_precision(document: Row) -> None:
    """Bytes and divergence, then answers, against the unquantized model."""
    arms, base = document["arms"], document["unquantized"]
    title = f"{document['model']}: bytes, and text, against bfloat16"
    if "perplexity" in base:
        title += f" (perplexity {base['perplexity']:.3f})"
    columns: tuple[str, ...]
    columns = ("weights", "kv", "measured on", "kept higher", "bytes, kv bytes", "KL mean", "95 %",
               "p99", "max", "top-1", "perplexity ratio", "95 %")  # fmt: skip
    print_table(title, columns, [_bytes_row(arm) for arm in arms])
    if base["recall"]:
        columns = ("weights", "kv", "measured on", "n", "right", "lost", "gained",
                   "difference, points", "95 % (bootstrap)", "95 % (Tango)", "McNemar p",
                   "within 1 point")  # fmt: skip
        right = ", ".join(f"{k} {v['accuracy']:.2%}" for k, v in base["recall"].items())
        title = f"Answers, paired with the unquantized model's ({right})"
        print_table(title, columns, [_recall_row(arm) for arm in arms if "recall_all" in arm])
    print("What these figures show, and what not: docs/precision.md.")


def _bytes_row(arm: Row) -> tuple[str, ...]:
    shares = (arm["share_of_bfloat16_bytes"], arm["kv_share_of_bfloat16_bytes"])
    found = (arm["weights"], arm["kv"], arm["measured_on"], f"{len(arm['exceptions'])} layers",
             ", ".join(f"{share:.2%}" for share in shares))  # fmt: skip
    text = arm.get("fidelity")
    if text is None:
        return (*found, *[""] * 7)
    low, high = text["kl_mean_bootstrap_95"]
    below, above = text["perplexity_ratio_bootstrap_95"]
    return (
        *found,
        f"{text['kl_mean']:.2g}",
        f"{low:.2g} to {high:.2g}",
        f"{text['kl_p99']:.2g}",
        f"{text['kl_max']:.2g}",
        f"{text['top1_agreement']:.2%}",
        f"{text['perplexity_ratio']:.4f}",
        f"{below:.4f} to {above:.4f}",
    )


def _recall_row(arm: Row) -> tuple[str, ...]:
    recall = arm["recall_all"]
    return (
        arm["weights"],
        arm["kv"],
        arm["measured_on"],
        str(recall["n"]),
        f"{recall['accuracy']:.2%}",
        str(recall["lost"]),
        str(recall["gained"]),
        f"{100 * recall['difference']:+.2f}",
        _points(recall["difference_bootstrap_95"]),
        _points(recall["difference_tango_95"]),
        f"{recall['mcnemar_exact_p']:.2g}",
        "yes" if recall["noninferior_1pt"] else "not shown",
    )


def _points(edges: list[float]) -> str:
    return f"{100 * edges[0]:+.2f} to {100 * edges[1]:+.2f}"


def show_sensitivity(result: Row) -> None:
    """The units that hurt most, and what keeping some of them does."""
    units = sorted(result["units"], key=lambda unit: unit["kl"], reverse=True)
    title = f"{result['model']}: KL of {result['format']} in one unit alone"
    if len(units) > _SHOWN:
        title += f", the first {_SHOWN} of {len(units)}"
    rows = [
        (
            unit["unit"],
            f"{unit['kl']:.2g}",
            format_bytes(unit["extra_bytes"]),
            result["higher"] if unit["kept"] else "",
        )
        for unit in units[:_SHOWN]
    ]
    print_table(title, ("unit", "KL", f"bytes to keep it in {result['higher']}", "kept"), rows)
    found = result["measured"]
    print(
        f"{result['format']}: {len(result['exceptions'])} layers kept in {result['higher']}: KL "
        f"{found['kl_plain']:.2g} to {found['kl_mean']:.2g} nats, bytes {found['share_plain']:.2%} "
        f"to {found['share']:.2%} of bfloat16 (budget {found['budget']:.2%})."
    )
