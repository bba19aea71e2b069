"""Metrics of retrieval, each with something planted that it must see."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stepwell.evaluate.knowledge_cautions import CAUTIONS, SILENT
from stepwell.evaluate.knowledge_corpus import CORPUS, SEEN
from stepwell.evaluate.knowledge_erase import canaries, erase_figures
from stepwell.evaluate.knowledge_filled import filled, others, released
from stepwell.evaluate.knowledge_ranking import (
    lexical_ranker,
    place_of,
    ranking_figures,
    vector_ranker,
)
from stepwell.evaluate.knowledge_retrieval import Firing, misspell, probes, retrieval_figures
from stepwell.knowledge.policy import Scope


def test_figures_of_rankings() -> None:
    figures = ranking_figures([1, 2, 6, None])
    assert figures["recall_at_5"] == 0.5
    assert figures["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 6) / 4, abs=1e-4)
    gains = 1 + 1 / np.log2(3) + 1 / np.log2(7)
    assert figures["ndcg_at_10"] == pytest.approx(gains / 4, abs=1e-4)
    assert place_of("b", ["a", "b"]) == 2 and place_of("c", ["a"]) is None
    with pytest.raises(ValueError, match="no questions"):
        ranking_figures([])


def test_plain_rankings_find_by_words_and_by_vectors() -> None:
    texts = [("tea", "green tea leaves"), ("car", "a fast red car"), ("hat", "a straw hat")]
    assert lexical_ranker(texts)("which cars are fast?")[0] == "car"
    assert lexical_ranker(texts)("???") == []
    axes = np.eye(3, dtype=np.float32)

    def embed(asked: object) -> np.ndarray:
        return np.stack([axes[len(str(text)) % 3] for text in asked])  # type: ignore[attr-defined]

    assert len(vector_ranker(texts, embed)("xxx")) == 3


def test_the_corpus_is_whole_and_its_questions_differ() -> None:
    names = [item.name for item in (*CORPUS, *CAUTIONS)]
    assert len(names) == len(set(names))
    asked = [text for item in (*CORPUS, *CAUTIONS) for text in item.asked] + list(SILENT)
    assert len(asked) == len(set(asked))
    assert all(len(item.asked) > SEEN for item in CORPUS)
    assert {item.twin for item in CORPUS} - {""} <= set(names)


def test_surfaces_change_with_the_seed_and_words_stay() -> None:
    clean, noisy = probes(seed=0), probes(seed=1)
    assert [probe.item for probe in clean] == [probe.item for probe in noisy]
    assert 0.3 < np.mean([a.text != b.text for a, b in zip(clean, noisy, strict=True)]) < 0.9
    assert misspell("which stations", random.Random(1)) != "which stations"
    assert misspell("who is it", random.Random(1)) == "who is it"


def test_retrieval_beats_chance_and_loses_what_is_not_there() -> None:
    figures = retrieval_figures(seeds=(0,), embedder=None, distractors=20)
    assert figures["held_out"]["recall_at_5"] > 0.8
    assert figures["cautions"]["gotcha_recall"] == 1.0
    item = CORPUS[0]
    with filled([released(other.payload) for other in CORPUS[1:]]) as base:
        ids = {f.entry.id for f in base.search(item.asked[0], Scope(), 10_000)}
    assert released(item.payload).id not in ids


def test_firing_counts_what_is_missed_and_what_comes_unasked() -> None:
    firing = Firing()
    firing.count("a", {"x", "y"}, {"x"})
    firing.count("b", set(), {"z"})
    firing.count("c", set(), set())
    figures = firing.figures()
    assert figures["gotcha_recall"] == 0.5 and figures["missed"] == ["a -> y"]
    assert figures["gotcha_false_fires"] == pytest.approx(1 / 3, abs=1e-4)


def test_others_are_as_many_as_wanted_and_differ() -> None:
    assert len({entry.id for entry in others(count=700, seed=2)}) == 700


def test_the_scan_for_canaries_sees_plain_and_packed_ones() -> None:
    figures = erase_figures()
    assert figures["found_before"] > 10 and figures["erase_canaries_left"] == 0


def test_the_scan_inflates(tmp_path: object) -> None:
    import zlib
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "a").write_bytes(b"xx" + zlib.compress(b"a BirD, a bird" * 3) + b"yy")
    assert canaries(folder, "bird") == 6
