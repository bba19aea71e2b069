"""Readable look-up contexts for the evaluation, made with seeds that training never uses.

`filled` is a context of nothing but pairs; `prose` and `digits` are held-out library text with a
few facts in it, whose values are one word or four digits. All end with one question, and the
answer's depth is chosen by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from house.tasks import Pieces


@dataclass(frozen=True)
class Probe:
    """A context without its answer, and the answer's tokens."""

    ids: list[int]
    answer: list[int]


def filled(pieces: Pieces, rng: np.random.Generator, length: int, depth: float) -> Probe:
    """`- river = castle` lines up to the length; the asked pair stands at `depth` (0 is first)."""
    ask, equals = pieces.ids("?"), pieces.ids(" =")
    count = min((length - 5) // 5, len(pieces.words))
    keys = rng.choice(pieces.words, count, replace=False).tolist()
    values = rng.choice(pieces.words, count).tolist()
    ids = [pieces.bos]
    for key, value in zip(keys, values, strict=True):
        ids += [*pieces.ids("-"), key, *equals, value, *pieces.ids("\n")]
    asked = min(count - 1, int(depth * count))
    return Probe([*ids, *ask, keys[asked], *equals], [values[asked]])


def prose(
    pieces: Pieces,
    rng: np.random.Generator,
    length: int,
    depth: float,
    text: np.ndarray,
    *,
    digits: bool,
) -> Probe:
    """Up to eight facts spread through held-out text; the asked one stands at `depth`."""
    facts = min(8, length // 40)
    keys = rng.choice(pieces.words, facts, replace=False).tolist()
    values = [_value(pieces, rng, digits=digits) for _ in keys]
    cost = 10 + len(values[0])
    filler = length - 1 - cost * facts - 24
    start = int(rng.integers(0, len(text) - filler))
    words = text[start : start + filler].tolist()
    places = rng.uniform(0, 1, facts)
    places[0] = depth
    ids, last = [pieces.bos], 0
    for i in np.argsort(places, kind="stable").tolist():
        cut = int(places[i] * filler)
        ids += [
            *words[last:cut],
            *pieces.ids("\nThe code for"),
            keys[i],
            *pieces.ids(" is"),
            *values[i],
            *pieces.ids(".\n"),
        ]
        last = cut
    ids += [
        *words[last:],
        *pieces.ids("\n"),
        *pieces.ids("Q: What is the code for"),
        keys[0],
        *pieces.ids("?\nA: The code for"),
        keys[0],
        *pieces.ids(" is"),
    ]
    return Probe(ids, values[0])


def _value(pieces: Pieces, rng: np.random.Generator, *, digits: bool) -> list[int]:
    if not digits:
        return [int(rng.choice(pieces.words))]
    known = pieces.ids("0123456789")
    return pieces.ids(" ") + [known[i] for i in rng.integers(0, 10, 4)]
