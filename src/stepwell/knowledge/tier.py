"""Entries that are visible on the same ground: what is released, or what one person confirmed.

Each tier has words, names and vectors of its own, so that what stands in another tier cannot move
what is found in this one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stepwell.knowledge.entities import Entities, Named
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.lexicon import Lexicon, Used, bm25
from stepwell.knowledge.payload import Kind
from stepwell.knowledge.policy import Scope

# Below this cosine two texts have nothing to do with each other; chosen, not measured.
_LEAST_COSINE = 0.3
# Equal to so many digits is a tie: the last ones depend on how a product is cut into blocks.
_COSINE_DIGITS = 5
_KEPT_MASKS = 64


@dataclass(frozen=True, slots=True)
class Held:
    """An entry, and what is compared of it. `vector`: of length one; None without an embedder."""

    entry: Entry
    triggers: tuple[str, ...]
    vocabulary: frozenset[str]
    used: Used
    vector: np.ndarray | None


@dataclass(frozen=True, slots=True)
class View:
    """Who looks, when, for what. `unusable`: ids that nobody is shown (schema drift)."""

    scope: Scope
    day: str
    kinds: tuple[Kind, ...]
    unusable: frozenset[str]

    def sees(self, entry: Entry) -> bool:
        return (
            entry.area in ("", self.scope.area)
            and entry.kind in self.kinds
            and entry.validity.holds(self.day)
            and entry.id not in self.unusable
        )


class Tier:
    """Adding is quick; removing builds anew at the next look."""

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self._reset()

    def _reset(self) -> None:
        self._ids: list[str] = []
        self._lexicon, self._entities = Lexicon(), Entities()
        self._matrix: np.ndarray | None = None
        self._masks: dict[tuple[object, ...], np.ndarray] = {}
        self._stale = False

    def add(self, held: Held) -> None:
        """Or replace."""
        if held.entry.id in self.held:
            self.remove([held.entry.id])
        self.held[held.entry.id] = held
        if not self._stale:
            self._place(held)

    def remove(self, ids: Iterable[str]) -> None:
        """Those of them that are there."""
        for name in ids:
            self._stale |= self.held.pop(name, None) is not None

    def _place(self, held: Held) -> None:
        self._lexicon.add(held.used)
        self._ids.append(held.entry.id)
        self._entities.add(held.entry.id, held.triggers, held.vocabulary)
        self._matrix = None
        self._masks.clear()

    def _settle(self) -> None:
        if self._stale:
            self._reset()
            for _, held in sorted(self.held.items()):
                self._place(held)

    def names(self, text: str, known: Callable[[str], bool]) -> Mapping[str, Named]:
        """Id -> how the text names it. `known`: words that are no misspellings anyhow."""
        self._settle()
        return self._entities.named(text, known)

    def knows(self, word: str) -> bool:
        """Whether an entry uses the word."""
        self._settle()
        return self._entities.knows(word)

    def part(self, view: View) -> tuple[Lexicon, np.ndarray]:
        """Words, and which places may be seen."""
        self._settle()
        key = (view.scope.area, view.day, view.kinds, view.unusable)
        if key not in self._masks:
            if len(self._masks) >= _KEPT_MASKS:
                self._masks.clear()
            seen = [view.sees(self.held[name].entry) for name in self._ids]
            self._masks[key] = np.array(seen, dtype=bool)
        return self._lexicon, self._masks[key]

    def best(self, scores: np.ndarray, limit: int) -> list[tuple[float, str]]:
        """(-score, id) of the highest positive ones, unordered; more than `limit` when tied."""
        found = np.flatnonzero(scores > 0)
        if len(found) > limit:
            least = np.partition(scores[found], -limit)[-limit]
            found = found[scores[found] >= least]
        return [(-float(scores[place]), self._ids[place]) for place in found]

    def cosines(self, asked: np.ndarray, view: View) -> np.ndarray:
        """Of each place; 0 where it is not seen or too far."""
        _, mask = self.part(view)
        if self._matrix is None:
            rows = [self.held[name].vector for name in self._ids]
            blank = np.zeros_like(asked)
            self._matrix = np.stack([blank if row is None else row for row in rows] or [blank])
        scores = np.round(self._matrix[: len(mask)] @ asked, _COSINE_DIGITS)
        return np.where(mask & (scores >= _LEAST_COSINE), scores, 0.0)


def by_words(tiers: Sequence[Tier], stems: Sequence[str], view: View, limit: int) -> list[str]:
    """Ids, best BM25 first, ties by id."""
    scores = bm25([tier.part(view) for tier in tiers], stems)
    return _merged(tiers, scores, limit)


def by_cosine(tiers: Sequence[Tier], asked: np.ndarray, view: View, limit: int) -> list[str]:
    """Ids, nearest first, ties by id."""
    return _merged(tiers, [tier.cosines(asked, view) for tier in tiers], limit)


def by_name(tiers: Sequence[Tier], text: str, view: View) -> dict[str, Named]:
    """Id -> how the text names it."""

    def known(word: str) -> bool:
        return any(tier.knows(word) for tier in tiers)

    found: dict[str, Named] = {}
    for tier in tiers:
        named = tier.names(text, known)
        found |= {k: how for k, how in named.items() if view.sees(tier.held[k].entry)}
    return found


def seen(tiers: Sequence[Tier], ids: Collection[str], view: View) -> set[str]:
    """Those that may be seen."""
    return {
        name
        for tier in tiers
        for name in ids
        if name in tier.held and view.sees(tier.held[name].entry)
    }


def _merged(tiers: Sequence[Tier], scores: Sequence[np.ndarray], limit: int) -> list[str]:
    found = [
        item for tier, own in zip(tiers, scores, strict=True) for item in tier.best(own, limit)
    ]
    return [name for _, name in sorted(found)[:limit]]
