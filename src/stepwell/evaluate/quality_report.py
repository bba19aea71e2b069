"""From answers and logits to the document, and several documents to one.

The document keeps every answer (one character a question), so that runs with other seeds, or with
other codecs on the same questions, can be joined and all figures worked out anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.quality_settings import Cost, Setting
from stepwell.evaluate.quality_stats import MARGIN, Pairs, describe, noninferior

LOW, HIGH = 0.90, 0.99
"""Where vanilla has to be for a loss to show: above, a task is too easy; below, noise hides it."""
DEPTHS = 10
Answers = dict[str, dict[str, str]]
"""Task -> seed -> one character a question, `1` where it was answered. Question i asks for a fact
in the tenth i % 10 of its context."""
_HEAD = ("model", "parameters", "uncompressed_bytes_per_token", "context_tokens")


@dataclass(slots=True)
class Row:
    """What is known of one setting. `fidelity` as in the document, None if not measured."""

    setting: Setting
    cost: Cost
    artifact_bytes: int
    fidelity: dict[str, Any] | None = None
    answers: Answers = field(default_factory=dict)


@dataclass(slots=True)
class Findings:
    """A run, or several. `head`: the model and what it was asked on. `perplexity`: vanilla's."""

    head: dict[str, Any]
    rows: list[Row]
    vanilla: Answers = field(default_factory=dict)
    perplexity: float | None = None


def make_document(found: Findings) -> dict[str, Any]:
    """All figures, for JSON."""
    vanilla: dict[str, Any] = {
        "recall": {task: _vanilla(seeds) for task, seeds in found.vanilla.items()},
        "answers": found.vanilla,
    }
    if found.perplexity is not None:
        vanilla["perplexity"] = found.perplexity
    rows = [_row(found, row) for row in found.rows]
    return found.head | {"vanilla": vanilla, "settings": rows, "verdicts": verdicts(found)}


def _row(found: Findings, row: Row) -> dict[str, Any]:
    setting, head = row.setting, found.head
    model_bytes = 2 * head["parameters"]
    figures: dict[str, Any] = {
        "codec": setting.codec,
        "nominal_ratio": setting.ratio,
        "sinks": setting.sinks,
        "window": setting.window,
        "bytes": row.cost.figures(
            raw=head["uncompressed_bytes_per_token"],
            artifact_bytes=row.artifact_bytes,
            model_bytes=model_bytes,
        ),
        "sums": asdict(row.cost),
    }
    if row.fidelity is not None:
        figures["fidelity"] = row.fidelity
    if row.answers:
        figures["recall"] = {
            task: describe(pairs_of(found.vanilla, row.answers, [task]))
            | {"by_depth_tenth": _by_depth(seeds)}
            for task, seeds in row.answers.items()
        }
        figures["recall_all"] = describe(pairs_of(found.vanilla, row.answers, list(row.answers)))
        figures["answers"] = row.answers
    return figures


def pairs_of(vanilla: Answers, answers: Answers, tasks: Sequence[str]) -> Pairs:
    """All questions of these tasks that the setting was asked, beside vanilla's answers."""
    ours, theirs = "", ""
    for task in tasks:
        for seed, text in answers[task].items():
            ours += text
            theirs += vanilla[task][seed]
    return Pairs.of([c == "1" for c in theirs], [c == "1" for c in ours])


def _accuracy(seeds: Mapping[str, str]) -> float:
    return sum(text.count("1") for text in seeds.values()) / sum(map(len, seeds.values()))


def _vanilla(seeds: Mapping[str, str]) -> dict[str, Any]:
    accuracy = _accuracy(seeds)
    return {
        "n": sum(map(len, seeds.values())),
        "accuracy": round(accuracy, 5),
        "by_depth_tenth": _by_depth(seeds),
        "in_range": LOW <= accuracy <= HIGH,
    }


def _by_depth(seeds: Mapping[str, str]) -> list[float | None]:
    """Accuracy by tenth of the context; None where nothing was asked."""
    found: list[float | None] = []
    for tenth in range(DEPTHS):
        here = "".join(text[tenth::DEPTHS] for text in seeds.values())
        found.append(round(here.count("1") / len(here), 4) if here else None)
    return found


def verdicts(found: Findings) -> list[dict[str, Any]]:
    """For each codec, sinks and window: the highest nominal ratio that is non-inferior at one point
    together with all lower ones, over the tasks on which vanilla is at 90 to 99 %.

    Ratios are tested upwards and the first failure ends it: a fixed sequence of hypotheses, so the
    error of 2.5 % holds for the whole sequence without a correction (Maurer, Hothorn and Lehmacher,
    in Biometrie in der chemisch-pharmazeutischen Industrie 6, 1995).
    """
    usable = [task for task, seeds in found.vanilla.items() if LOW <= _accuracy(seeds) <= HIGH]
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in found.rows:
        setting = row.setting
        groups.setdefault((setting.codec, setting.sinks, setting.window), []).append(row)
    verdict = []
    for (codec, sinks, window), rows in groups.items():
        asked = [task for task in usable if all(task in row.answers for row in rows)]
        rows = sorted(rows, key=lambda row: row.setting.ratio or 0.0)
        verdict.append(
            {"codec": codec, "sinks": sinks, "window": window, "tasks": asked, "margin": MARGIN}
            | {"highest": _highest(found, rows, asked) if asked else None}
        )
    return verdict


def _highest(found: Findings, rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Any] | None:
    best = None
    for row in rows:
        pairs = pairs_of(found.vanilla, row.answers, tasks)
        if not noninferior(pairs):
            break
        figures = row.cost.figures(
            raw=found.head["uncompressed_bytes_per_token"], artifact_bytes=0, model_bytes=1
        )
        keep = ("ratio_coded", "ratio_with_sinks", "ratio_session")
        best = {"nominal_ratio": row.setting.ratio, "n": pairs.n}
        best |= {name: figures[name] for name in keep if name in figures}
    return best


def read_document(document: Mapping[str, Any]) -> Findings:
    """The inverse of `make_document`. KeyError and TypeError for anything else."""
    rows = [
        Row(
            setting=Setting(
                codec=row["codec"],
                ratio=row["nominal_ratio"],
                sinks=row["sinks"],
                window=row["window"],
            ),
            cost=Cost(**row["sums"]),
            artifact_bytes=row["bytes"].get("artifact_bytes", 0),
            fidelity=row.get("fidelity"),
            answers=row.get("answers", {}),
        )
        for row in document["settings"]
    ]
    vanilla = document["vanilla"]
    head = {name: document[name] for name in _HEAD}
    return Findings(head, rows, vanilla["answers"], vanilla.get("perplexity"))


def join(parts: Sequence[Findings]) -> Findings:
    """One of several: other seeds add questions, other settings add rows. ConfigError where they
    are of other models or contexts, or would count a question twice."""
    whole = parts[0]
    for part in parts[1:]:
        if part.head != whole.head:
            raise ConfigError("these results are of different models or contexts.", param="files")
        merge_answers(whole.vanilla, part.vanilla, of_vanilla=True)
        whole.perplexity = part.perplexity if whole.perplexity is None else whole.perplexity
        known = {row.setting: row for row in whole.rows}
        for row in part.rows:
            if row.setting in known:
                _add(known[row.setting], row)
            else:
                whole.rows.append(row)
    return whole


def _add(row: Row, other: Row) -> None:
    merge_answers(row.answers, other.answers, of_vanilla=False)
    row.cost = row.cost + other.cost
    row.fidelity = row.fidelity or other.fidelity


def merge_answers(known: Answers, other: Answers, *, of_vanilla: bool) -> None:
    """Add answers to other seeds, in place. ConfigError for seeds that both have, but for vanilla's
    where they are the same."""
    for task, seeds in other.items():
        for seed, text in seeds.items():
            present = known.setdefault(task, {}).get(seed)
            if present is not None and not (of_vanilla and present == text):
                what = "vanilla answered otherwise in" if of_vanilla else "a setting was asked in"
                raise ConfigError(
                    f"{what} two of these results (task {task}, seed {seed}).",
                    hint="Give each run its own --seed, or other codecs.",
                    param="files",
                )
            known[task][seed] = text
