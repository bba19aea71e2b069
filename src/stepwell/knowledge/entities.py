"""Which entries a text names: exact words by Aho-Corasick, misspelt ones by edit distance.

A trigger is a phrase (its words, one after the other), or several parts that must all be there
(`orders + cancelled`, `orders.status`). Words are compared stemmed and in lower case (`words`).
A word that no entry uses counts as a misspelling of a trigger's word when it begins alike and is
one edit away (two from nine letters on); shorter than five letters it does not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import ahocorasick
from rapidfuzz import process
from rapidfuzz.distance import OSA

from stepwell.knowledge.words import STOPWORDS, words

_PARTS = re.compile(r"\s\+\s|(?<=\w)\.(?=\w)")
_SHORTEST, _TWO_EDITS = 5, 9


def parts(trigger: str) -> tuple[str, ...]:
    """The phrases that must all occur, normalised; empty for a trigger without words."""
    found = (" ".join(words(part)) for part in _PARTS.split(trigger))
    return tuple(sorted({part for part in found if part}))


@dataclass(frozen=True, slots=True)
class Named:
    """`weight`: words of the longest trigger that fired; `count`: triggers that did."""

    weight: int
    count: int


@dataclass(slots=True)
class Entities:
    """Triggers of many entries, by id. Rebuilt at the next look after a change."""

    _triggers: dict[tuple[str, ...], set[str]] = field(default_factory=lambda: defaultdict(set))
    _by_part: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    _machine: ahocorasick.Automaton | None = None
    _buckets: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def add(self, key: str, triggers: Iterable[str], vocabulary: Iterable[str]) -> None:
        """`vocabulary`: stemmed words that the entry uses, which are no misspellings."""
        for trigger in triggers:
            if found := parts(trigger):
                self._triggers[found].add(key)
        self._known.update(vocabulary)
        self._machine = None

    def knows(self, word: str) -> bool:
        """Whether some entry uses the stemmed word."""
        return word in self._known

    def named(self, text: str, known: Callable[[str], bool]) -> Mapping[str, Named]:
        """Key -> how it was named. `known`: stemmed words that are no misspellings anyhow."""
        if self._machine is None:
            self._build()
        asked = words(text)
        present = set(self._phrases(asked))
        if (mended := self._mend(asked, known)) != asked:
            present |= set(self._phrases(mended))
        found: dict[str, Named] = {}
        for trigger in {t for part in present for t in self._by_part[part]}:
            if present.issuperset(trigger):
                weight = sum(part.count(" ") + 1 for part in trigger)
                for key in self._triggers[trigger]:
                    old = found.get(key, Named(0, 0))
                    found[key] = Named(max(weight, old.weight), old.count + 1)
        return found

    def _build(self) -> None:
        by_part: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for trigger in self._triggers:
            for part in trigger:
                by_part[part].append(trigger)
        machine = ahocorasick.Automaton()
        buckets: dict[tuple[str, int], set[str]] = defaultdict(set)
        for part in by_part:
            machine.add_word(f" {part} ", part)
            for word in part.split():
                if len(word) >= _SHORTEST:
                    buckets[word[0], len(word)].add(word)
        if by_part:
            machine.make_automaton()
        self._by_part, self._machine = dict(by_part), machine
        self._buckets = {key: sorted(found) for key, found in buckets.items()}

    def _phrases(self, asked: list[str]) -> Iterator[str]:
        if self._by_part and self._machine is not None:
            for _, part in self._machine.iter(f" {' '.join(asked)} "):
                yield part

    def _mend(self, asked: list[str], known: Callable[[str], bool]) -> list[str]:
        return [word if known(word) else self._nearest(word) for word in asked]

    def _nearest(self, word: str) -> str:
        if len(word) < _SHORTEST or word in STOPWORDS or word in self._known:
            return word
        edits = 2 if len(word) >= _TWO_EDITS else 1
        near = [
            other
            for length in range(len(word) - edits, len(word) + edits + 1)
            for other in self._buckets.get((word[0], length), ())
        ]
        best = process.extractOne(word, near, scorer=OSA.distance, score_cutoff=edits)
        return str(best[0]) if best else word
