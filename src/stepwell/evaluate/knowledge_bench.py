"""`stepwell bench knowledge`: the knowledge base without a model (Level A).

arms        the loop with honest, careless and hostile people, against no knowledge base
retrieval   do other words find the entry, do cautions fire when named
edits       what the gate and the regression cases block
safety      injection, queries that reach out, tenants, reuse, erasing
prefix      how much of the text in front is known to the cache, naive injection beside it
speed       retrieval at 10,000 entries, from a confirmation to its use
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from typing import Any

from stepwell.evaluate import knowledge_sections as sections
from stepwell.evaluate.knowledge_arms import Arms, Say
from stepwell.evaluate.knowledge_events import attacker, drift, rollback
from stepwell.evaluate.knowledge_loop import make_course
from stepwell.evaluate.knowledge_outcome import Outcome, cost, pooled
from stepwell.evaluate.knowledge_score import scoring_figures
from stepwell.evaluate.knowledge_sections import KnowledgeOptions
from stepwell.evaluate.knowledge_world import make_worlds
from stepwell.evaluate.options import OnSection, Section


class Part(StrEnum):
    """In the order in which they run."""

    ARMS = "arms"
    RETRIEVAL = "retrieval"
    EDITS = "edits"
    SAFETY = "safety"
    PREFIX = "prefix"
    SPEED = "speed"


def run_knowledge_bench(
    options: KnowledgeOptions, *, on_section: OnSection, say: Say
) -> dict[str, Any]:
    """All figures by part, and `summary`: one line of them."""
    result: dict[str, Any] = {"seeds": list(options.seeds), "worlds": options.worlds}
    summary: dict[str, Any] = {}
    for name in options.parts:
        part = Part(name)
        section = _SECTIONS[part](options, say)
        result[part.value] = section.figures
        summary |= _SUMMARIES[part](section.figures)
        on_section(section)
    return result | {"summary": summary}


def _arms(options: KnowledgeOptions, say: Say) -> Section:
    found: dict[str, list[Outcome]] = {}
    for outcomes in _of_all_seeds(options, say):
        for name, outcome in outcomes.items():
            found.setdefault(name, []).append(outcome)
    figures = {name: pooled(outcomes) for name, outcomes in found.items()}
    for name, arm in figures.items():
        if not name.startswith("drift"):  # whose test is another
            arm |= cost(found["honest"], found[name])
    rows = tuple(_rows(figures))
    say("wrong queries that the databases tell apart")
    judged = 1 if options.quick else options.worlds
    scoring = scoring_figures(make_worlds(count=judged, seed=options.seeds[0]))
    notes = (f"{scoring['told_apart']} of {scoring['mutants']} mutants of the true queries are "
             f"told apart by the databases",)  # fmt: skip
    return Section("arms", _title(options), _COLUMNS, rows, figures | {"scoring": scoring}, notes)


def _of_all_seeds(options: KnowledgeOptions, say: Say) -> list[dict[str, Outcome]]:
    """Several seeds side by side, a process each, as many at once as there are cores."""
    if len(options.seeds) == 1:
        (seed,) = options.seeds
        return [_of_seed(seed=seed, worlds=options.worlds, quick=options.quick, say=say)]
    say(f"arms of {len(options.seeds)} seeds")
    with ProcessPoolExecutor(max_workers=min(len(options.seeds), os.cpu_count() or 1)) as pool:
        waiting = [
            pool.submit(
                _of_seed, seed=seed, worlds=options.worlds, quick=options.quick, say=_silent
            )
            for seed in options.seeds
        ]
        return [one.result() for one in waiting]


def _silent(text: str) -> None:
    """A process of its own says nothing."""


def _of_seed(*, seed: int, worlds: int, quick: bool, say: Say) -> dict[str, Outcome]:
    course = make_course(make_worlds(count=worlds, seed=seed), seed=seed)
    try:
        arms = Arms(course, seed, lambda text: say(f"seed {seed}, {text}"))
        outcomes = arms.quick() if quick else arms.all()
        outcomes["attacker"] = attacker(arms)
        outcomes["rollback"] = rollback(arms)
        if not quick:
            outcomes["drift"] = drift(arms, told=True)
            outcomes["drift_untold"] = drift(arms, told=False)
        return outcomes
    finally:
        course.judge.close()


def _title(options: KnowledgeOptions) -> str:
    return (
        f"Trap questions after 200 requests, {len(options.seeds)} seeds of {options.worlds} worlds"
    )


_COLUMNS = ("arm", "right", "gain, points", "95 %, worlds drawn", "p (McNemar)",
            "untouched flips", "lost to honest")  # fmt: skip


def _rows(figures: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            f"{arm['trap_accuracy']:.1%}",
            f"{arm['trap_gain_points']:+.1f}",
            "{:+.1f} to {:+.1f}".format(*arm["gain_worlds_bootstrap_95"]),
            f"{arm['mcnemar_exact_p']:.1g}",
            f"{arm['untouched_flips']} of {arm['untouched_questions']}",
            f"{arm['lost_to_honest_points']:+.1f}" if "lost_to_honest_points" in arm else "-",
        )
        for name, arm in figures.items()
    ]


def _arms_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    attacks = figures["attacker"]["of_each_seed"]
    backs = figures["rollback"]["of_each_seed"]
    return {
        "trap_gain_points": figures["honest"]["trap_gain_points"],
        "untouched_flips": figures["honest"]["untouched_flips"],
        "placebo_gain_points": figures["placebo"]["trap_gain_points"],
        "wrong_confirm_cost_points": figures["wrong_10%"]["lost_to_honest_points"],
        "attacker_released": sum(one["released"] for one in attacks),
        "attacker_effects": sum(one["effects"] for one in attacks),
        "rollback_s": max(one["rollback_s"] for one in backs),
        "rollback_differences": sum(
            one["differ_after_rollback"] + one["answers_differ_after_rollback"] for one in backs
        ),
    }


_SECTIONS: Mapping[Part, Callable[[KnowledgeOptions, Say], Section]] = {
    Part.ARMS: _arms,
    Part.RETRIEVAL: sections.retrieval,
    Part.EDITS: sections.edits,
    Part.SAFETY: sections.safety,
    Part.PREFIX: sections.prefix,
    Part.SPEED: sections.speed,
}
_SUMMARIES: Mapping[Part, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    Part.ARMS: _arms_summary,
    Part.RETRIEVAL: sections.retrieval_summary,
    Part.EDITS: sections.edits_summary,
    Part.SAFETY: sections.safety_summary,
    Part.PREFIX: sections.prefix_summary,
    Part.SPEED: sections.speed_summary,
}
