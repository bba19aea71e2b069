"""Does a question in other words find its entry, and does a caution fire when it should and only
then."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.evaluate.knowledge_cautions import ALSO, CAUTIONS, MISSPELT, SILENT
from stepwell.evaluate.knowledge_corpus import CORPUS, SEEN, Item
from stepwell.evaluate.knowledge_filled import filled, others, released
from stepwell.evaluate.knowledge_ranking import (
    Ranker,
    lexical_ranker,
    place_of,
    ranking_figures,
    vector_ranker,
)
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entry import Entry
from stepwell.knowledge.payload import kind_of, texts
from stepwell.knowledge.policy import Pattern, Scope

_BUDGET = 100_000  # tokens: what is measured is the order, not the cut
_OPENINGS = ("Hi, ", "Quick question: ", "For the board: ", "One more: ")


@dataclass(frozen=True, slots=True)
class Probe:
    """A question and the entry that it asks for. `held_out`: never looked at."""

    item: Item
    text: str
    held_out: bool


def probes(*, seed: int) -> list[Probe]:
    """Every question, from seed 1 on with a change of the surface: small letters without
    punctuation, an opening, or none."""
    draw = random.Random(f"surface {seed}")
    return [
        Probe(item, _surface(text, draw) if seed else text, number >= SEEN)
        for item in CORPUS
        for number, text in enumerate(item.asked)
    ]


def _surface(text: str, draw: random.Random) -> str:
    change = draw.randrange(3)
    if change == 0:
        return "".join(c for c in text.casefold() if c not in "?.,!:")
    return draw.choice(_OPENINGS) + text if change == 1 else text


def misspell(text: str, draw: random.Random) -> str:
    """Two neighbouring inner letters of one word of six or more change places."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) >= 6 and word.isalpha()]
    if not long:
        return text
    place = draw.choice(long)
    word, at = words[place], draw.randrange(1, len(words[place]) - 2)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def retrieval_figures(
    *, seeds: Sequence[int], embedder: Embedder | None, distractors: int
) -> dict[str, Any]:
    """`held_out`, `seen`, `misspelt`: by retrieval as it is; `by_kind`: held out; the plain
    rankings beside it. `distractors`: entries of other companies that are released too."""
    found: dict[str, list[int | None]] = defaultdict(list)
    twins, cautions = [], Firing()
    for seed in seeds:
        crowd = others(count=distractors, seed=seed)
        named = {_entry(item).id: item for item in (*CORPUS, *CAUTIONS)}
        held = [_entry(item) for item in (*CORPUS, *CAUTIONS)]
        plain = [(item.name, _said(_entry(item))) for item in CORPUS]
        plain += [(entry.id, _said(entry)) for entry in crowd]
        with filled((*held, *crowd), embedder=embedder) as base:
            rankers: dict[str, Ranker] = {
                "": _searcher(base, named),
                "lexical_only ": lexical_ranker(plain),
            }
            if embedder is not None:
                rankers["vector_only "] = vector_ranker(plain, embedder)
            draw = random.Random(f"misspelt {seed}")
            for probe in probes(seed=seed):
                for label, ranker in rankers.items():
                    for key, place in _places(probe, ranker, label):
                        found[key].append(place)
                ranking = rankers[""](probe.text)
                if probe.item.twin:
                    own, other = (place_of(n, ranking) for n in (probe.item.name, probe.item.twin))
                    twins.append(own is not None and (other is None or own < other))
                if probe.held_out:
                    ranking = rankers[""](misspell(probe.text, draw))
                    found["misspelt"].append(place_of(probe.item.name, ranking))
            cautions.run(base, named, seed=seed)
    out: dict[str, Any] = {key: ranking_figures(value) for key, value in sorted(found.items())}
    return out | {
        "seeds": list(seeds),
        "entries": len(CORPUS) + len(CAUTIONS) + distractors,
        "embedder": embedder is not None,
        "twin_first": round(sum(twins) / len(twins), 4),
        "cautions": cautions.figures(),
    }


def _entry(item: Item) -> Entry:
    return released(item.payload, triggers=item.triggers)


def _said(entry: Entry) -> str:
    return " ".join(texts(entry.payload).values())


def _places(probe: Probe, ranker: Ranker, label: str) -> Iterator[tuple[str, int | None]]:
    place = place_of(probe.item.name, ranker(probe.text))
    yield f"{label}{'held_out' if probe.held_out else 'seen'}", place
    if probe.held_out:
        yield f"{label}{kind_of(probe.item.payload).value}", place


def _searcher(base: Knowledge, named: dict[str, Item]) -> Ranker:
    """Cautions are forced in, whatever their rank: they take no place from the others."""

    def rank(question: str) -> list[str]:
        found = base.search(question, Scope(user="asker"), _BUDGET)
        ids = [item.entry.id for item in found if item.pattern is not Pattern.GOTCHA]
        return [named[name].name if name in named else name for name in ids]

    return rank


class Firing:
    """Which cautions fire at which questions."""

    def __init__(self) -> None:
        self._due = self._fired = self._misspelt_due = self._misspelt_fired = 0
        self._questions = self._disturbed = 0
        self.missed: set[str] = set()
        self.wrong: set[str] = set()

    def run(self, base: Knowledge, named: dict[str, Item], *, seed: int) -> None:
        """All questions of `knowledge_cautions`."""
        draw = random.Random(f"surface {seed}")
        cases: list[tuple[str, set[str]]] = [(text, set()) for text in SILENT]
        for item in CAUTIONS:
            cases += [(text, {item.name, *ALSO.get(text, ())}) for text in item.asked]
        for text, due in cases:
            asked = _surface(text, draw) if seed else text
            hits = base.search(asked, Scope(user="asker"), _BUDGET)
            fired = {named[h.entry.id].name for h in hits if h.pattern is Pattern.GOTCHA}
            self.count(text, due, fired)

    def count(self, text: str, due: set[str], fired: set[str]) -> None:
        """One question: the cautions that it names, and those that came."""
        if text in MISSPELT:
            self._misspelt_due += len(due)
            self._misspelt_fired += len(due & fired)
        else:
            self._due += len(due)
            self._fired += len(due & fired)
            self.missed |= {f"{text} -> {name}" for name in due - fired}
        self._questions += 1
        self._disturbed += bool(fired - due)
        self.wrong |= {f"{text} -> {name}" for name in fired - due}

    def figures(self) -> dict[str, Any]:
        """`false_fires`: share of questions at which something fires that they do not name."""
        return {
            "named": self._due,
            "gotcha_recall": round(self._fired / self._due, 4),
            "misspelt_recall": round(self._misspelt_fired / max(1, self._misspelt_due), 4),
            "questions": self._questions,
            "gotcha_false_fires": round(self._disturbed / self._questions, 4),
            "missed": sorted(self.missed),
            "wrong": sorted(self.wrong),
        }
