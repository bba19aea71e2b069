"""`stepwell bench knowledge --level b`: figures of Level B as a table and one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.evaluate.knowledge_model import FULL, QUICK, Say, run_level_b
from stepwell.evaluate.options import OnSection, Section

_COLUMNS = ("arm", "traps right", "gain, points", "95 % (Tango)", "p (McNemar)", "untouched right",
            "flips", "prompt tokens cached")  # fmt: skip


def run_knowledge_model_bench(
    *, quick: bool, seed: int, on_section: OnSection, say: Say
) -> dict[str, Any]:
    """All figures, and `summary`: one line of them."""
    found = run_level_b(size=QUICK if quick else FULL, seed=seed, say=say)
    title = (
        f"{found['arms']['none']['trap_questions']} trap and "
        f"{found['arms']['none']['untouched_questions']} untouched questions about "
        f"{found['worlds']} held-out worlds, after {found['learnt_requests']} requests"
    )
    rows = tuple(_row(name, arm) for name, arm in found["arms"].items())
    on_section(Section("level_b", title, _COLUMNS, rows, found, _notes(found["prefix_cache"])))
    return {"level_b": found, "summary": _summary(found)}


def _row(name: str, arm: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{arm['trap_accuracy']:.1%}",
        f"{arm['trap_gain_points']:+.1f}",
        "{:+.1f} to {:+.1f}".format(*arm["gain_tango_95"]),
        f"{arm['mcnemar_exact_p']:.1g}",
        f"{arm['untouched_accuracy']:.1%}",
        f"{arm['untouched_flips']} of {arm['untouched_questions']}",
        f"{arm['cached_share']:.1%}",
    )


def _notes(cache: Mapping[str, Any]) -> tuple[str, ...]:
    parts = ", ".join(
        f"{name}: {cache[name]['answers_that_differ']} differ, "
        f"{cache[name]['cached_share']:.0%} of prompt tokens from the cache"
        for name in ("first", "hot", "restored")
    )
    return (f"{cache['questions']} answers, token by token, against no prefix cache: {parts}",)


def _summary(found: Mapping[str, Any]) -> dict[str, Any]:
    arms, cache = found["arms"], found["prefix_cache"]
    return {
        "level_b_trap_gain_points": arms["loop"]["trap_gain_points"],
        "level_b_trap_accuracy": arms["loop"]["trap_accuracy"],
        "level_b_oracle_trap_accuracy": arms["oracle"]["trap_accuracy"],
        "level_b_placebo_gain_points": arms["placebo"]["trap_gain_points"],
        "level_b_untouched_accuracy": arms["loop"]["untouched_accuracy"],
        "level_b_untouched_flips": arms["loop"]["untouched_flips"],
        "cached_answers_that_differ": sum(
            cache[name]["answers_that_differ"] for name in ("first", "hot", "restored")
        ),
        "loop_prompt_tokens_cached": arms["loop"]["cached_share"],
    }
