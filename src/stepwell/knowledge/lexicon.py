"""Words of many entries and which entries use them: BM25 over those that the asker may see.

SQLite's FTS5 supplies the stemmer (Porter). It does not rank: its document frequencies and average
length are those of the whole table, so what nobody may see yet would move everybody's scores.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepwell.knowledge.words import words

TITLE_WEIGHT = 4.0
# Robertson, Zaragoza 2009; the usual choice.
_K1, _B = 1.2, 0.75
_KEPT_STEMS = 200_000


class Stems:
    """Porter stems of words, by FTS5, kept to be used again."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._db.executescript("""
            CREATE VIRTUAL TABLE one USING fts5(word, tokenize='porter unicode61');
            CREATE VIRTUAL TABLE seen USING fts5vocab(one, 'instance');""")
        self._known: dict[str, str] = {}

    def of(self, text: str) -> list[str]:
        """The stems of a text, in order."""
        found = words(text)
        self._learn({word for word in found if word not in self._known})
        return [self._known[word] for word in found]

    def forget(self) -> None:
        """Drop what is kept (erasing)."""
        self._known.clear()

    def close(self) -> None:
        self._db.close()

    def _learn(self, new: Iterable[str]) -> None:
        ready = list(new)
        if not ready:
            return
        if len(self._known) > _KEPT_STEMS:
            self._known = {}
        self._db.execute("BEGIN")
        rows = list(enumerate(ready, start=1))
        self._db.executemany("INSERT INTO one (rowid, word) VALUES (?, ?)", rows)
        self._known.update((word, word) for word in ready)  # what FTS5 takes for no word at all
        for place, stem in self._db.execute("SELECT doc, term FROM seen ORDER BY doc, offset"):
            self._known[ready[place - 1]] = stem
        self._db.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class Used:
    """Words of one entry. `weights`: stem -> how often it stands there, in the title counted
    `TITLE_WEIGHT` times; `length`: words, each counted once."""

    weights: Mapping[str, float]
    length: int

    @staticmethod
    def of(title: Sequence[str], body: Sequence[str]) -> Used:
        """From stems."""
        weights: dict[str, float] = Counter(body)  # type: ignore[assignment]
        for stem in title:
            weights[stem] = weights.get(stem, 0) + TITLE_WEIGHT
        return Used(dict(weights), len(title) + len(body))


class Lexicon:
    """Postings by stem. Places count up and are never used twice: who removes builds anew."""

    def __init__(self) -> None:
        self._lengths: list[int] = []
        self._array: np.ndarray | None = None
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, used: Used) -> int:
        """Its place."""
        place = len(self._lengths)
        self._lengths.append(used.length)
        self._array = None
        for stem, weight in used.weights.items():
            self._postings[stem].append((place, weight))
            self._arrays.pop(stem, None)
        return place

    @property
    def lengths(self) -> np.ndarray:
        """Of each place, float64."""
        if self._array is None:
            self._array = np.array(self._lengths, dtype=np.float64)
        return self._array

    def postings(self, stem: str) -> tuple[np.ndarray, np.ndarray]:
        """Places that use it, and its weight there."""
        if stem not in self._postings:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        if stem not in self._arrays:
            places, weights = zip(*self._postings[stem], strict=True)
            self._arrays[stem] = np.array(places, dtype=np.int64), np.array(weights)
        return self._arrays[stem]


def bm25(parts: Sequence[tuple[Lexicon, np.ndarray]], stems: Sequence[str]) -> list[np.ndarray]:
    """Scores of every place of each part; 0 where no stem is used or the mask is False.

    parts: lexicon with a boolean mask over its places: what may be seen. Frequencies and the
    average length are of all parts together, and of nothing that is masked. The weight of a stem
    that n of N entries use is ln(1 + (N - n + 0.5) / (n + 0.5)).
    """
    total = sum(int(np.count_nonzero(mask)) for _, mask in parts)
    size = sum(float(lexicon.lengths[mask].sum()) for lexicon, mask in parts)
    scores = [np.zeros(len(mask)) for _, mask in parts]
    average = size / total if size else 1.0
    for stem in stems:
        found = [lexicon.postings(stem) for lexicon, _ in parts]
        seen = [mask[places] for (places, _), (_, mask) in zip(found, parts, strict=True)]
        using = sum(int(np.count_nonzero(one)) for one in seen)
        rarity = math.log(1 + (total - using + 0.5) / (using + 0.5))
        for (places, weights), keep, (lexicon, _), score in zip(
            found, seen, parts, scores, strict=True
        ):
            at, weight = places[keep], weights[keep]
            norm = _K1 * (1 - _B + _B * lexicon.lengths[at] / average)
            score[at] += rarity * weight * (_K1 + 1) / (weight + norm)
    return scores
