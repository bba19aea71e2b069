"""Which entries a question needs: four patterns, each with its own trigger.

Session state is the caller's (`session`). Domain knowledge and usage patterns come by words,
vectors and names, fused by reciprocal rank; cautions (gotchas and error rules) come when the
question names what they are about, and in no other way. Quotas and a token budget cut the rest;
cautions are served first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stepwell.knowledge.entities import Named
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.index import Index
from stepwell.knowledge.payload import Kind
from stepwell.knowledge.policy import Pattern, Policy, Scope
from stepwell.knowledge.render import CountTokens, render_entry
from stepwell.knowledge.words import content_words

DOMAIN = (Kind.SCHEMA, Kind.RELATIONSHIP, Kind.METRIC, Kind.DOCUMENT)
USAGE = (Kind.TEMPLATE,)
CAUTIONS = (Kind.GOTCHA, Kind.ERROR_RULE)
_SEARCHED = DOMAIN + USAGE
# Cormack, Clarke, Buettcher 2009: 1 / (60 + rank).
_RRF = 60
_DEPTH = 30
# Of the question's words that say something, the share that an entry found by words alone must use.
# Tuned, as `merge`, on the questions of `evaluate/knowledge_corpus.py` that may be looked at.
_LEAST_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry that a question brought up, and by which pattern."""

    entry: Entry
    pattern: Pattern


def fuse(rankings: Iterable[Sequence[str]]) -> list[str]:
    """Reciprocal rank fusion; ties by id."""
    scores: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for place, name in enumerate(ranking, start=1):
            scores[name] += 1.0 / (_RRF + place)
    return sorted(scores, key=lambda name: (-scores[name], name))


def merge(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """By the better of two places; words win ties. Not a fusion: what nobody can name (a query, a
    document) is no worse for it."""
    said = {name: place for place, name in enumerate(words)}
    called = {name: place for place, name in enumerate(names)}
    last = len(said) + len(called)

    def place(name: str) -> tuple[int, int, str]:
        by_words = said.get(name, last)
        return min(by_words, called.get(name, last)), by_words, name

    return sorted(said | called, key=place)


def rank(
    index: Index, text: str, scope: Scope, *, day: str, policy: Policy
) -> tuple[list[Found], frozenset[str]]:
    """All that the question brings up, best first, within the quotas; and the cautions in it."""
    lexical = index.by_words(text, scope, day, kinds=_SEARCHED, limit=_DEPTH)
    near = _relevant(index, text, lexical)
    vector = index.by_vector(text, scope, day, kinds=_SEARCHED, limit=_DEPTH)
    named = index.by_entity(text, scope, day, kinds=tuple(Kind))
    entity = _by_specificity(named, lexical)
    cautions = frozenset(name for name in named if index.get(name).kind in CAUTIONS)
    fused = fuse([merge(near, entity), vector])
    shown = {name: index.shown(name, scope, day) for name in fused}
    replaced = {old for entry in shown.values() for old in entry.supersedes}
    left = Counter({kind: policy.quotas.get(kind, 0) for kind in Kind})
    found = []
    for name in fused:
        entry = shown[name]
        if name not in replaced and left[entry.kind] > 0:
            left[entry.kind] -= 1
            found.append(Found(entry=entry, pattern=_pattern(entry.kind)))
    return found, cautions


def select(
    index: Index,
    text: str,
    scope: Scope,
    *,
    day: str,
    policy: Policy,
    budget_tokens: int,
    count_tokens: CountTokens,
) -> tuple[Found, ...]:
    """The best that fit into the budget, in order of relevance; cautions are counted first."""
    found, cautions = rank(index, text, scope, day=day, policy=policy)
    left = budget_tokens
    taken = set()
    for item in sorted(found, key=lambda item: item.entry.id not in cautions):
        cost = count_tokens(render_entry(item.entry))
        if cost <= left:
            left -= cost
            taken.add(item.entry.id)
    return tuple(item for item in found if item.entry.id in taken)


def _pattern(kind: Kind) -> Pattern:
    if kind in CAUTIONS:
        return Pattern.GOTCHA
    return Pattern.USAGE if kind in USAGE else Pattern.DOMAIN


def _relevant(index: Index, text: str, ids: Sequence[str]) -> list[str]:
    asked = index.stems(" ".join(content_words(text)))
    least = _LEAST_SHARE * len(asked)
    return [name for name in ids if len(asked.intersection(index.stems_of(name))) >= least]


def _by_specificity(named: Mapping[str, Named], lexical: Sequence[str]) -> list[str]:
    """Longer triggers first, then more of them, then the better words."""
    places = {name: place for place, name in enumerate(lexical)}
    last = len(lexical)
    return sorted(
        named,
        key=lambda name: (-named[name].weight, -named[name].count, places.get(name, last), name),
    )
