"""Rankings: how good one is, and the two plain ones that retrieval is held against."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stepwell.knowledge.embed import Embedder

Ranker = Callable[[str], Sequence[str]]
"""Question -> names, best first."""
RECALL_AT, NDCG_AT = 5, 10
_WORD = re.compile(r"\w+")
_DEPTH = 50


def place_of(name: str, ranking: Sequence[str]) -> int | None:
    """From 1; None where it is not in it."""
    return ranking.index(name) + 1 if name in ranking else None


def ranking_figures(places: Sequence[int | None]) -> dict[str, Any]:
    """recall@5, mean reciprocal rank, nDCG@10 of questions with one right entry each, whose gain is
    1 / log2(1 + place) (Jarvelin and Kekalainen, ACM TOIS 20, 2002). ValueError for no questions.
    """
    if not places:
        raise ValueError("no questions")
    found = [place for place in places if place is not None]
    return {
        "questions": len(places),
        "recall_at_5": round(sum(p <= RECALL_AT for p in found) / len(places), 4),
        "mrr": round(sum(1 / p for p in found) / len(places), 4),
        "ndcg_at_10": round(sum(1 / math.log2(1 + p) for p in found if p <= NDCG_AT) / len(places),
                            4),
    }  # fmt: skip


def lexical_ranker(texts: Sequence[tuple[str, str]]) -> Ranker:
    """BM25 alone, as SQLite's FTS5 comes: Porter stems, every word of the question, one column.
    `texts`: (name, text)."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE VIRTUAL TABLE held USING fts5(name UNINDEXED, text, tokenize='porter')")
    base.executemany("INSERT INTO held VALUES (?, ?)", texts)

    def rank(question: str) -> list[str]:
        match = " OR ".join(f'"{word}"' for word in _WORD.findall(question))
        query = f"SELECT name FROM held WHERE held MATCH ? ORDER BY rank LIMIT {_DEPTH}"
        return [name for (name,) in base.execute(query, (match,))] if match else []

    return rank


def vector_ranker(texts: Sequence[tuple[str, str]], embedder: Embedder) -> Ranker:
    """Cosine alone."""
    matrix = embedder([text for _, text in texts])

    def rank(question: str) -> list[str]:
        order = np.argsort(-(matrix @ embedder([question])[0]), kind="stable")[:_DEPTH]
        return [texts[int(place)][0] for place in order]

    return rank
