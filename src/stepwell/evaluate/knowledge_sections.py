"""The parts of `stepwell bench knowledge` besides the arms: a table and figures of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.evaluate.knowledge_drills import (
    injection_figures,
    query_figures,
    reuse_figures,
    tenant_figures,
)
from stepwell.evaluate.knowledge_erase import erase_figures
from stepwell.evaluate.knowledge_gate import gate_figures
from stepwell.evaluate.knowledge_prefix import prefix_figures
from stepwell.evaluate.knowledge_retrieval import retrieval_figures
from stepwell.evaluate.knowledge_speed import speed_figures
from stepwell.evaluate.options import Section
from stepwell.knowledge.embed import Embedder

_DISTRACTORS = 300
_WANTED = ("what", "measured", "wanted")


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeOptions:
    """`parts`: names, in order. `seeds`: of worlds, people and surfaces. `worlds`: of each seed.
    `embedder`: for vectors beside words and names."""

    parts: Sequence[str]
    quick: bool
    seeds: Sequence[int]
    worlds: int
    embedder: Embedder | None = None


Say = Callable[[str], None]


def retrieval(options: KnowledgeOptions, say: Say) -> Section:
    """Paraphrases and cautions; seed 0 is the clean surface."""
    say("retrieval: paraphrases and cautions")
    figures = retrieval_figures(
        seeds=(0, *options.seeds), embedder=options.embedder, distractors=_DISTRACTORS
    )
    rows = [
        (name, str(row["questions"]), f"{row['recall_at_5']:.3f}", f"{row['mrr']:.3f}",
         f"{row['ndcg_at_10']:.3f}")
        for name, row in figures.items() if isinstance(row, dict) and "mrr" in row
    ]  # fmt: skip
    columns = ("questions in other words", "asked", "recall@5", "MRR", "nDCG@10")
    fires = figures["cautions"]
    notes = (f"cautions named: {fires['gotcha_recall']:.1%} fire; at "
             f"{fires['gotcha_false_fires']:.1%} of questions one fires unasked",)  # fmt: skip
    return Section("retrieval", "Retrieval", columns, tuple(rows), figures, notes)


def retrieval_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Of questions that were held out."""
    return {
        "recall_at_5": figures["held_out"]["recall_at_5"],
        "mrr": figures["held_out"]["mrr"],
        "gotcha_recall": figures["cautions"]["gotcha_recall"],
        "gotcha_false_fires": figures["cautions"]["gotcha_false_fires"],
    }


def edits(options: KnowledgeOptions, say: Say) -> Section:
    """60 bad and 60 harmless ones a seed; the short run does not try what harm they would do."""
    found = []
    for seed in options.seeds:
        say(f"seed {seed}, edits")
        found.append(gate_figures(seed=seed, harm=not options.quick))
    figures: dict[str, Any] = {
        side: {
            "edits": sum(one[side]["edits"] for one in found),
            "blocked": sum(one[side]["blocked"] for one in found),
        }
        for side in ("bad", "harmless")
    }
    for side in figures.values():
        side["blocked_share"] = round(side["blocked"] / side["edits"], 4)
    figures["of_each_seed"] = found
    rows = [
        (side, kind, ", ".join(f"{by} {count}" for by, count in fates.items()))
        for side in ("bad", "harmless")
        for kind, fates in found[0][side]["of_each_kind"].items()
    ]
    notes = tuple(f"{side}: {figures[side]['blocked']} of {figures[side]['edits']} blocked"
                  for side in ("bad", "harmless"))  # fmt: skip
    title = f"Edits, seed {options.seeds[0]}"
    return Section("edits", title, ("edit", "kind", "blocked by"), tuple(rows), figures, notes)


def edits_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Shares."""
    return {
        "bad_edits_blocked": figures["bad"]["blocked_share"],
        "harmless_edits_blocked": figures["harmless"]["blocked_share"],
    }


def safety(options: KnowledgeOptions, say: Say) -> Section:
    """With the first seed."""
    say("safety")
    seed = options.seeds[0]
    figures = {
        "queries": query_figures(),
        "injection": injection_figures(seed=seed),
        "tenants": tenant_figures(seed=seed),
        "reuse": reuse_figures(seed=seed),
        "erase": erase_figures(),
    }
    orders, tenants, reuse = figures["injection"], figures["tenants"], figures["reuse"]
    rows = (
        ("queries and expressions that reach out, let in",
         f"{len(figures['queries']['let_in'])} of {figures['queries']['tried']}", "0"),
        ("texts that give orders", ", ".join(f"{k} {v}" for k, v in orders["fates"].items()), "-"),
        ("answers that they change", str(orders["answers_changed"]), "0"),
        ("observations that a neighbour changes", f"{tenants['crossed']} of {tenants['seen']}",
         "0"),
        ("answers taken from a neighbouring question", f"{reuse['wrong']} of {reuse['asked']}",
         "0"),
        ("canaries left after erasing", str(figures["erase"]["erase_canaries_left"]), "0"),
    )  # fmt: skip
    return Section("safety", "Safety", _WANTED, rows, figures)


def safety_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """What must be 0."""
    return {
        "unsafe_queries_let_in": len(figures["queries"]["let_in"]),
        "injection_effects": figures["injection"]["answers_changed"],
        "tenant_crossings": figures["tenants"]["crossed"],
        "near_miss_reuse": figures["reuse"]["wrong"],
        "erase_canaries_left": figures["erase"]["erase_canaries_left"],
    }


def prefix(options: KnowledgeOptions, say: Say) -> Section:
    """With the first seed."""
    say("prefix")
    figures = prefix_figures(seed=options.seeds[0])
    rows = (
        ("pack, computed ahead of a release", f"{figures['pack_prefix_hit_rate']:.1%}", "95 %"),
        ("pack, computed when first asked for", f"{figures['without_prefill']:.1%}", "-"),
        ("all in the system prompt, best first", f"{figures['naive_ranked']:.1%}", "-"),
        ("all in the system prompt, by id", f"{figures['naive_in_order_of_id']:.1%}", "-"),
    )
    title = "Tokens in front whose blocks are known, one capture for 10 requests"
    return Section("prefix", title, _WANTED, rows, figures)


def prefix_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Beside naive injection."""
    return {
        "pack_prefix_hit_rate": figures["pack_prefix_hit_rate"],
        "naive_prefix_hit_rate": figures["naive_ranked"],
    }


def speed(options: KnowledgeOptions, say: Say) -> Section:
    """With the first seed."""
    say("speed, 10,000 entries")
    figures = speed_figures(seed=options.seeds[0])
    rows = (
        ("retrieval, p95", f"{figures['retrieve_p95_ms']:.2f} ms", "5 ms"),
        ("confirmation to use, p95", f"{figures['confirm_to_usable_p95_ms']:.1f} ms", "200 ms"),
    )
    return Section("speed", f"Speed, {figures['entries']:,} entries", _WANTED, rows, figures)


def speed_summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The slow ends."""
    return {
        "retrieve_p95_ms": figures["retrieve_p95_ms"],
        "confirm_to_usable_p95_ms": figures["confirm_to_usable_p95_ms"],
    }
