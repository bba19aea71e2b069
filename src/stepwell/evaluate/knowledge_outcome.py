"""What an arm of Level A came to: paired with no knowledge base on the same questions, pooled over
seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.evaluate.knowledge_loop import Asked, Score
from stepwell.evaluate.precision_stats import bootstrap_mean
from stepwell.evaluate.quality_stats import Pairs, mcnemar_exact, tango_interval

STRETCH = 20
"""Requests that one point of a curve stands for."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`test`, with what no knowledge base and the arm made of it. `asked`, `right`: the stream,
    each request before it was learnt from. `more`: counts of this arm alone."""

    test: tuple[Asked, ...]
    none: Score
    score: Score
    asked: tuple[Asked, ...] = ()
    right: tuple[bool, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def trapped(self) -> list[bool]:
        return [bool(item.question.traps) for item in self.test]


def _of_traps(outcome: Outcome, right: Sequence[bool]) -> list[bool]:
    return [r for r, trap in zip(right, outcome.trapped, strict=True) if trap]


def _by_world(outcomes: Sequence[Outcome]) -> list[list[float]]:
    """Of each world of each seed: +1 for a trap question gained, -1 for one lost."""
    found: dict[tuple[int, int], list[float]] = {}
    for seed, outcome in enumerate(outcomes):
        rows = zip(outcome.test, outcome.none.right, outcome.score.right, strict=True)
        for asked, before, after in rows:
            if asked.question.traps:
                found.setdefault((seed, asked.question.world), []).append(float(after - before))
    return list(found.values())


def pooled(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Of one arm under several seeds. The bootstrap draws whole worlds, whose questions depend on
    each other; Tango's interval and McNemar's test take them as independent."""
    before = [r for one in outcomes for r in _of_traps(one, one.none.right)]
    after = [r for one in outcomes for r in _of_traps(one, one.score.right)]
    pairs = Pairs.of(before, after)
    plain = [
        (a, b)
        for one in outcomes
        for a, b, trap in zip(one.none.right, one.score.right, one.trapped, strict=True)
        if not trap
    ]
    return {
        "trap_questions": pairs.n,
        "trap_accuracy": round(sum(after) / pairs.n, 4),
        "trap_gain_points": points(pairs.difference),
        "gain_tango_95": [points(edge) for edge in tango_interval(pairs)],
        "gain_worlds_bootstrap_95": [points(e) for e in bootstrap_mean(_by_world(outcomes))],
        "mcnemar_exact_p": float(f"{mcnemar_exact(pairs):.4g}"),
        "gained": pairs.gained,
        "lost": pairs.lost,
        "untouched_questions": len(plain),
        "untouched_flips": sum(a != b for a, b in plain),
        "sibling_accuracy": _share(outcomes, held_out=True),
        "paraphrase_accuracy": _share(outcomes, held_out=False),
        "curve": curve(outcomes),
        "of_each_seed": [_single(one) for one in outcomes],
    }


def _single(outcome: Outcome) -> dict[str, Any]:
    after = _of_traps(outcome, outcome.score.right)
    before = _of_traps(outcome, outcome.none.right)
    gain = points((sum(after) - sum(before)) / len(after))
    return {"trap_gain_points": gain} | outcome.more


def points(share: float) -> float:
    """Hundredths, two digits."""
    return round(100 * share, 2)


def _share(outcomes: Sequence[Outcome], *, held_out: bool) -> float:
    found = [
        right
        for one in outcomes
        for asked, right in zip(one.test, one.score.right, strict=True)
        if asked.question.traps and asked.question.held_out is held_out
    ]
    return round(sum(found) / len(found), 4)


def curve(outcomes: Sequence[Outcome]) -> list[float | None]:
    """Accuracy on trap questions of each `STRETCH` requests of the stream; None for a stretch
    without any."""
    longest = max((len(one.right) for one in outcomes), default=0)
    out: list[float | None] = []
    for start in range(0, longest, STRETCH):
        found = [
            right
            for one in outcomes
            for asked, right in list(zip(one.asked, one.right, strict=True))[
                start : start + STRETCH
            ]
            if asked.question.traps
        ]
        out.append(round(sum(found) / len(found), 4) if found else None)
    return out


def cost(honest: Sequence[Outcome], other: Sequence[Outcome]) -> dict[str, Any]:
    """Points of trap questions that an arm loses against the honest one, question by question."""
    pairs = Pairs.of(
        [r for one in honest for r in _of_traps(one, one.score.right)],
        [r for one in other for r in _of_traps(one, one.score.right)],
    )
    low, high = tango_interval(pairs)
    return {
        "lost_to_honest_points": points(-pairs.difference),
        "lost_tango_95": [points(-high), points(-low)],
        "lost_mcnemar_exact_p": float(f"{mcnemar_exact(pairs):.4g}"),
    }
