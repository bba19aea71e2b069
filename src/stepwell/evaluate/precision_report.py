"""From predictions and answers to the document of `stepwell evaluate precision`, and several
documents to one: other seeds add questions, other settings add arms.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.precision_arms import Opened
from stepwell.evaluate.precision_settings import Arm
from stepwell.evaluate.precision_stats import bootstrap_difference, bootstrap_mean
from stepwell.evaluate.precision_text import TextResult
from stepwell.evaluate.quality_report import HIGH, LOW, Answers, merge_answers, pairs_of
from stepwell.evaluate.quality_stats import describe

_HEAD = ("model", "parameters", "context_tokens")


@dataclass(slots=True)
class Unquantized:
    """The model in bfloat16: what everything is compared with."""

    model: str
    parameters: int
    length: int
    text: TextResult
    answers: Answers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ArmFindings:
    """One arm's predictions on text and answers."""

    arm: Arm
    opened: Opened
    text: TextResult
    answers: Answers


def make_document(base: Unquantized, arms: list[ArmFindings]) -> dict[str, Any]:
    """All figures, for JSON. Answers are kept, one character a question."""
    unquantized: dict[str, Any] = {"answers": base.answers}
    if base.text.loss:
        unquantized["perplexity"] = round(math.exp(_mean(base.text.loss)), 4)
    document = {
        "model": base.model,
        "parameters": base.parameters,
        "context_tokens": base.length,
        "unquantized": unquantized,
        "arms": [_arm(base, found) for found in arms],
    }
    return _with_recall(document)


def join(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document of several. ConfigError where they are of other models or contexts, or would
    count a question twice; KeyError and TypeError for other documents."""
    whole = copy.deepcopy(documents[0])
    for part in documents[1:]:
        if any(part[name] != whole[name] for name in _HEAD):
            raise ConfigError("these results are of different models or contexts.", param="files")
        base, other = whole["unquantized"], part["unquantized"]
        merge_answers(base["answers"], other["answers"], of_vanilla=True)
        whole["unquantized"] = {k: v for k, v in other.items() if k == "perplexity"} | base
        known = {_setting(arm): arm for arm in whole["arms"]}
        for arm in part["arms"]:
            same = known.get(_setting(arm))
            if same is None:
                whole["arms"].append(arm)
                continue
            merge_answers(same["answers"], arm["answers"], of_vanilla=False)
            if "fidelity" in arm:
                same.setdefault("fidelity", arm["fidelity"])
    kept = (*_HEAD, "unquantized", "arms")
    return _with_recall({name: whole[name] for name in kept})


def _setting(arm: dict[str, Any]) -> tuple[Any, ...]:
    return arm["weights"], arm["kv"], arm["measured_on"], tuple(arm["exceptions"].items())


def _with_recall(document: dict[str, Any]) -> dict[str, Any]:
    """The document with all that follows from the answers."""
    base = document["unquantized"]
    base["recall"] = {task: _recall(seeds) for task, seeds in base["answers"].items()}
    for arm in document["arms"]:
        answers = arm["answers"]
        if not answers:
            continue
        arm["recall"] = {
            task: describe(pairs_of(base["answers"], answers, [task])) for task in answers
        }
        pairs = pairs_of(base["answers"], answers, list(answers))
        edges = [round(edge, 5) for edge in bootstrap_difference(pairs)]
        arm["recall_all"] = describe(pairs) | {"difference_bootstrap_95": edges}
    return document


def _arm(base: Unquantized, found: ArmFindings) -> dict[str, Any]:
    arm = found.arm
    figures: dict[str, Any] = {
        "weights": str(arm.weights),
        "measured_on": str(arm.how),
        "kv": str(arm.kv),
        "share_of_bfloat16_bytes": round(found.opened.share, 5),
        "kv_share_of_bfloat16_bytes": round(found.opened.kv_share(arm.kv), 5),
        "exceptions": {name: str(kept) for name, kept in sorted(arm.exceptions.items())},
        "decisions": [decision.as_dict() for decision in found.opened.decisions],
        "answers": found.answers,
    }
    if found.text.kl:
        figures["fidelity"] = _fidelity(base.text, found.text)
    return figures


def _fidelity(base: TextResult, text: TextResult) -> dict[str, Any]:
    """As `stepwell evaluate quality` reports it, with intervals over texts and the ratio of
    perplexities."""
    more = [
        [ours - theirs for ours, theirs in zip(one, other, strict=True)]
        for one, other in zip(text.loss, base.loss, strict=True)
    ]
    low, high = bootstrap_mean(more)
    return text.fidelity().as_dict() | {
        "kl_mean_bootstrap_95": [float(f"{edge:.4g}") for edge in bootstrap_mean(text.kl)],
        "perplexity_ratio": round(math.exp(_mean(more)), 6),
        "perplexity_ratio_bootstrap_95": [round(math.exp(edge), 6) for edge in (low, high)],
    }


def _mean(texts: list[list[float]]) -> float:
    flat = [value for text in texts for value in text]
    return math.fsum(flat) / len(flat)


def _recall(seeds: dict[str, str]) -> dict[str, Any]:
    asked = "".join(seeds.values())
    accuracy = asked.count("1") / len(asked)
    return {
        "n": len(asked),
        "accuracy": round(accuracy, 5),
        "in_range": LOW <= accuracy <= HIGH,
    }
