"""From predictions and answers to the document of `stepwell evaluate precision`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from stepwell.evaluate.precision_arms import Arm, Opened
from stepwell.evaluate.precision_stats import bootstrap_difference, bootstrap_mean
from stepwell.evaluate.precision_text import TextResult
from stepwell.evaluate.quality_report import HIGH, LOW, Answers, pairs_of
from stepwell.evaluate.quality_stats import describe


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
    unquantized: dict[str, Any] = {
        "recall": {task: _recall(seeds) for task, seeds in base.answers.items()},
        "answers": base.answers,
    }
    if base.text.loss:
        unquantized["perplexity"] = round(math.exp(_mean(base.text.loss)), 4)
    return {
        "model": base.model,
        "parameters": base.parameters,
        "context_tokens": base.length,
        "unquantized": unquantized,
        "arms": [_arm(base, found) for found in arms],
    }


def _arm(base: Unquantized, found: ArmFindings) -> dict[str, Any]:
    arm = found.arm
    figures: dict[str, Any] = {
        "weights": str(arm.weights),
        "measured_on": str(arm.how),
        "share_of_bfloat16_bytes": round(found.opened.share, 5),
        "exceptions": {name: str(kept) for name, kept in sorted(arm.exceptions.items())},
        "decisions": [decision.as_dict() for decision in found.opened.decisions],
    }
    if found.text.kl:
        figures["fidelity"] = _fidelity(base.text, found.text)
    if any(text for seeds in found.answers.values() for text in seeds.values()):
        figures["recall"] = {
            task: describe(pairs_of(base.answers, found.answers, [task])) for task in found.answers
        }
        pairs = pairs_of(base.answers, found.answers, list(found.answers))
        low, high = bootstrap_difference(pairs)
        figures["recall_all"] = describe(pairs) | {
            "difference_bootstrap_95": [round(low, 5), round(high, 5)]
        }
        figures["answers"] = found.answers
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
