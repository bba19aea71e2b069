"""The tables of `stepwell evaluate quality`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.cli.output import print_table

Row = Mapping[str, Any]


def show(document: Row) -> None:
    """Bytes and divergence, recall, recall by depth, and the verdicts in words."""
    settings, vanilla = document["settings"], document["vanilla"]
    title = f"{document['model']}: bytes, and text that goes on from restored caches"
    if "perplexity" in vanilla:
        title += f" (vanilla perplexity {vanilla['perplexity']:.3f})"
    columns: tuple[str, ...]
    columns = ("codec", "sinks+window exact", "B/token", "ratio", "with sinks", "session",
               "KL mean", "p99", "max", "top-1", "perplexity")  # fmt: skip
    print_table(title, columns, [_bytes_row(row) for row in settings])
    if vanilla["recall"]:
        columns = ("codec", "sinks+window exact", "right", "95 %", "lost", "gained",
                   "difference, points", "95 %", "McNemar p", "within 1 point")  # fmt: skip
        title = "Recall on restored caches, paired with vanilla (all tasks)"
        print_table(title, columns, [_recall_row(row) for row in settings if "recall_all" in row])
        tenths = [f"{10 * i} %" for i in range(10)]
        print_table("Recall by depth, %", ("task", "codec", "n", "all", *tenths), _depths(document))
    for verdict in document["verdicts"] if vanilla["recall"] else ():
        print(_sentence(verdict))
    print("What these figures show, and what not: docs/quality.md.")


def _name(row: Row) -> tuple[str, str]:
    ratio = row["nominal_ratio"]
    name = str(row["codec"]) if ratio is None else f"{row['codec']} {ratio:g}x"
    return name, f"{row['sinks']}+{row['window']}"


def _bytes_row(row: Row) -> tuple[str, ...]:
    size, text = row["bytes"], row.get("fidelity")
    ratios = [f"{size.get(key, 1):.2f}x" for key in _RATIOS]
    found = (*_name(row), f"{size.get('bytes_per_coded_token', 0):.1f}", *ratios)
    if text is None:
        return (*found, *[""] * 5)
    kls = [f"{text[key]:.2g}" for key in ("kl_mean", "kl_p99", "kl_max")]
    return (*found, *kls, f"{text['top1_agreement']:.2%}", f"{text['perplexity']:.3f}")


_RATIOS = ("ratio_coded", "ratio_with_sinks", "ratio_session")


def _recall_row(row: Row) -> tuple[str, ...]:
    recall = row["recall_all"]
    low, high = recall["difference_tango_95"]
    below, above = recall["accuracy_wilson_95"]
    return (
        *_name(row),
        f"{recall['accuracy']:.2%}",
        f"{100 * below:.1f} to {100 * above:.1f}",
        str(recall["lost"]),
        str(recall["gained"]),
        f"{100 * recall['difference']:+.2f}",
        f"{100 * low:+.2f} to {100 * high:+.2f}",
        f"{recall['mcnemar_exact_p']:.2g}",
        "yes" if recall["noninferior_1pt"] else "not shown",
    )


def _depths(document: Row) -> list[tuple[str, ...]]:
    found = []
    for task, base in document["vanilla"]["recall"].items():
        found.append(_depth_row(task, "vanilla", base))
        for row in document["settings"]:
            if task in row.get("recall", {}):
                name, spared = _name(row)
                found.append(_depth_row(task, f"{name}, {spared}", row["recall"][task]))
    return found


def _depth_row(task: str, who: str, figures: Row) -> tuple[str, ...]:
    tenths = ["" if x is None else f"{100 * x:.0f}" for x in figures["by_depth_tenth"]]
    return task, who, str(figures["n"]), f"{100 * figures['accuracy']:.2f}", *tenths


def _sentence(verdict: Row) -> str:
    spared = f"{verdict['codec']} with {verdict['sinks']} sinks and window {verdict['window']}"
    if not verdict["tasks"]:
        return f"{spared}: no verdict, vanilla is on no task at 90 to 99 %."
    best, tasks = verdict["highest"], ", ".join(verdict["tasks"])
    if best is None:
        return f"{spared}: not shown to stay within one point of vanilla ({tasks})."
    ratio = best["nominal_ratio"]
    named = f"up to nominal {ratio:g}x" if ratio else "as it is"
    sizes = f"real {best.get('ratio_coded', 1):.1f}x, session {best.get('ratio_session', 1):.1f}x"
    return f"{spared}: within one point {named} ({sizes}; n = {best['n']}, {tasks})."
