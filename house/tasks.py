"""Generated recall tasks: every row is (token ids, mask of the tokens that are answers).

A row is one context filled to its length. The answers are dense, since a context with many
questions teaches look-up with far fewer tokens than one question a context (associative recall
as in Zoology, arXiv:2312.04927; the circuit is the induction head, arXiv:2209.11895).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from house.words import common_words

Row = tuple[list[int], list[bool]]
Maker = Callable[["Pieces", np.random.Generator, int], Row]
FIRST_PLAIN_TOKEN = 7  # below are the special tokens
MIN_SEEN = 40


@dataclass
class Pieces:
    """Token ids of the fixed texts and of the words that tasks are made of."""

    tokenizer: Tokenizer
    words: np.ndarray
    bos: int
    cache: dict[str, list[int]] = field(default_factory=dict)

    def ids(self, text: str) -> list[int]:
        """Token ids of a fixed piece of text, remembered."""
        if text not in self.cache:
            self.cache[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.cache[text]


def special_id(tokenizer: Tokenizer, text: str) -> int:
    """Id of a token that must exist."""
    found = tokenizer.token_to_id(text)
    if found is None:
        raise KeyError(f"the tokenizer has no token {text!r}")
    return int(found)


def make_pieces(tokenizer: Tokenizer, documents: list[str]) -> Pieces:
    """Words: the house list and every other lowercase single-token word of the documents.

    Many tokens are only stems on the way to a longer word, so a token counts as a word when the
    documents have it standing alone often enough.
    """
    known = dict.fromkeys(common_words())
    seen = Counter(re.findall(r"(?<= )[a-z]{4,}(?=[ ,.;:)])", "\n".join(documents)))
    vocabulary = tokenizer.get_vocab()
    for word in sorted(seen):
        if seen[word] >= MIN_SEEN and "\u0120" + word in vocabulary:
            known.setdefault(word)
    ids = [tokenizer.token_to_id("\u0120" + word) for word in known]
    return Pieces(tokenizer, np.array(ids), special_id(tokenizer, "<|bos|>"))


class Builder:
    """Collects tokens and their answer flags up to a length."""

    def __init__(self, pieces: Pieces, length: int) -> None:
        self.length = length
        self.ids = [pieces.bos]
        self.answer = [False]

    def add(self, ids: list[int], *, answer: bool = False) -> None:
        """Append tokens."""
        self.ids.extend(ids)
        self.answer.extend([answer] * len(ids))

    def room(self) -> int:
        """Tokens left."""
        return self.length - len(self.ids)

    def row(self) -> Row:
        """The row, cut to the length."""
        return self.ids[: self.length], self.answer[: self.length]


def _digits(pieces: Pieces, rng: np.random.Generator, count: int) -> list[int]:
    digits = pieces.ids("0123456789")
    return [digits[i] for i in rng.integers(0, 10, count)]


def repeat(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """A random segment again and again; everything after its first time is an answer."""
    out = Builder(pieces, length)
    while out.room() > 0:
        size = int(rng.integers(4, max(6, min(out.room() // 2 + 2, length // 2))))
        if rng.random() < 0.5:
            segment = rng.choice(pieces.words, size).tolist()
        else:
            top = pieces.tokenizer.get_vocab_size()
            segment = rng.integers(FIRST_PLAIN_TOKEN, top, size).tolist()
        out.add(segment)
        for _ in range(int(rng.integers(1, 4))):
            out.add(segment[:1])
            out.add(segment[1:], answer=True)
    return out.row()


def pairs(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """`k v k v ...` and then the same pairs in random order, each value an answer."""
    out = Builder(pieces, length)
    count = min((length - 1) // 4, len(pieces.words))
    if rng.random() < 0.3:
        count = int(rng.integers(2, count + 1))
    keys = rng.choice(pieces.words, count, replace=False).tolist()
    values = rng.choice(pieces.words, count).tolist()
    for key, value in zip(keys, values, strict=True):
        out.add([key, value])
    while out.room() > 0:
        for i in rng.permutation(count):
            out.add([keys[i]])
            out.add([values[i]], answer=True)
    return out.row()


def lines(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """`- river = castle` lines, then `? river = castle` lines."""
    out = Builder(pieces, length)
    share = 0.5 if rng.random() < 0.4 else rng.uniform(0.2, 0.97)
    count = int(min(max(2, (length - 1) * share // 5), len(pieces.words) - 1))
    keys = rng.choice(pieces.words, count, replace=False).tolist()
    values = rng.choice(pieces.words, count).tolist()
    dash, ask, equals, end = (pieces.ids(t) for t in ("-", "?", " =", "\n"))
    for key, value in zip(keys, values, strict=True):
        out.add([*dash, key, *equals, value, *end])
    while out.room() > 0:
        for i in rng.permutation(count):
            out.add([*ask, keys[i], *equals])
            out.add([values[i]], answer=True)
            out.add(end)
    return out.row()


def _fact_value(pieces: Pieces, rng: np.random.Generator, *, digits: bool) -> list[int]:
    if digits:
        return pieces.ids(" ") + _digits(pieces, rng, 4)
    return [int(rng.choice(pieces.words))]


def codes(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """`The code for river is 4821.` facts and questions about them."""
    out = Builder(pieces, length)
    digits = rng.random() < 0.6
    cost = 11 if digits else 7
    count = int(max(1, min(length * rng.uniform(0.02, 0.6) / cost, len(pieces.words))))
    keys = rng.choice(pieces.words, count, replace=False).tolist()
    facts = [(key, _fact_value(pieces, rng, digits=digits)) for key in keys]
    for key, value in facts:
        out.add([*pieces.ids("The code for"), key, *pieces.ids(" is"), *value, *pieces.ids(".\n")])
    while out.room() > 0:
        for i in rng.permutation(count):
            _ask(out, pieces, *facts[i])
    return out.row()


def _ask(out: Builder, pieces: Pieces, key: int, value: list[int]) -> None:
    out.add([*pieces.ids("Q: What is the code for"), key, *pieces.ids("?\nA: The code for")])
    out.add([key, *pieces.ids(" is"), *value, *pieces.ids(".\n")], answer=True)


def make_needles(text: Callable[[np.random.Generator, int], list[int]]) -> Maker:
    """Task with facts spread through real text, given a source of text tokens."""

    def needles(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
        out = Builder(pieces, length)
        count = int(rng.integers(1, max(2, min(length // 64, 16)) + 1))
        keys = rng.choice(pieces.words, count, replace=False).tolist()
        digits = rng.random() < 0.6
        facts = [(key, _fact_value(pieces, rng, digits=digits)) for key in keys]
        asked = max(30, min(count, 6) * 30)
        filler = max(8, length - 16 * count - asked)
        cuts = np.sort(rng.integers(0, filler, count)).tolist()
        words = text(rng, filler)
        last = 0
        for cut, (key, value) in zip(cuts, facts, strict=True):
            out.add(words[last:cut])
            out.add(
                [*pieces.ids("\nThe code for"), key, *pieces.ids(" is"), *value, *pieces.ids(".\n")]
            )
            last = cut
        out.add(words[last:] + pieces.ids("\n"))
        while out.room() > 0:
            for i in rng.permutation(count):
                _ask(out, pieces, *facts[i])
        return out.row()

    return needles


def trace(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """Chains `river = 7`, `stone = river`; the question spells out the hops."""
    out = Builder(pieces, length)
    equals, end = pieces.ids(" ="), pieces.ids("\n")
    while out.room() > 0:
        chains, hops = int(rng.integers(2, 5)), int(rng.integers(2, 4))
        names = rng.choice(pieces.words, (chains, hops), replace=False).tolist()
        ends = rng.choice(pieces.words, chains).tolist()
        order = rng.permutation(np.repeat(np.arange(chains), hops)).tolist()
        done = [0] * chains
        out.add(pieces.ids("Trace:\n"))
        for chain in order:
            step = done[chain]
            source = names[chain][step - 1] if step else ends[chain]
            out.add([*pieces.ids("let"), names[chain][step], *equals, source, *end])
            done[chain] += 1
        for chain in rng.permutation(chains):
            out.add([*pieces.ids("follow"), names[chain][-1]])
            for name in [*names[chain][-2::-1], ends[chain]]:
                out.add(equals)
                out.add([name], answer=True)
            out.add(end)
    return out.row()


def copy(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """A list of words, written again."""
    out = Builder(pieces, length)
    while out.room() > 0:
        size = int(rng.integers(3, max(5, min(length // 2 - 4, 200))))
        chosen = rng.choice(pieces.words, size).tolist()
        out.add([*pieces.ids("Copy:"), *chosen, *pieces.ids("\nAgain:")])
        out.add([*chosen, *pieces.ids("\n")], answer=True)
    return out.row()


def count(pieces: Pieces, rng: np.random.Generator, length: int) -> Row:
    """How often one word stands in a list of two to four different words."""
    out = Builder(pieces, length)
    while out.room() > 0:
        kinds = rng.choice(pieces.words, int(rng.integers(2, 5)), replace=False)
        chosen = rng.choice(kinds, int(rng.integers(3, 17)))
        out.add([*pieces.ids("List:"), *chosen.tolist(), *pieces.ids("\n")])
        for kind in kinds.tolist():
            out.add([*pieces.ids("count"), kind, *pieces.ids(" =")])
            out.add(pieces.ids(f" {int((chosen == kind).sum())}\n"), answer=True)
    return out.row()
