"""Texts for calibrating and measuring codecs: the running Python's standard library, and recall.

Which files are held out is decided by the hash of their path, by the same rule as in the house
model's training (house/corpus.py), so that model has not seen them either. Recall texts are facts
to look up, made from words of the calibration files; calibration and measuring draw different ones.
"""

from __future__ import annotations

import hashlib
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_SKIPPED = {
    "test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings",
    "lib2to3", "ensurepip", "turtledemo",
}  # fmt: skip
_HELD_OUT_PERCENT = 4
_WORDS = 600

Encode = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class TextSets:
    """Rows of token ids, all of one length."""

    calibration: list[list[int]]
    held_out: list[list[int]]
    held_out_recall: list[list[int]]


def is_held_out(relative_path: str) -> bool:
    """Whether a file of the library is kept for measuring."""
    digest = hashlib.sha256(relative_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < _HELD_OUT_PERCENT


def library_texts() -> tuple[list[str], list[str]]:
    """(calibration files, held-out files) of the standard library, without tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: list[str] = []
    held: list[str] = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED.isdisjoint(relative.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            (held if is_held_out(relative.as_posix()) else seen).append(text)
    return seen, held


def make_sets(
    encode: Encode, *, first: int | None, length: int, rows: tuple[int, int, int], seed: int
) -> TextSets:
    """Rows of `length` tokens, each opened by `first` where there is one: `rows` of calibration
    (a quarter of them recall), of held-out text, and of held-out recall."""
    seen, held = library_texts()
    rng = random.Random(seed)
    words = _words(seen)
    recall = rows[0] // 4
    cut = _Cutter(first=first, length=length)
    rng.shuffle(seen)
    need = 2 * (rows[0] - recall) * length
    calibration = cut.pieces(_tokens(encode, seen, need), rows[0] - recall)
    calibration += [cut.row(encode(_facts(words, rng, length))) for _ in range(recall)]
    return TextSets(
        calibration=calibration,
        held_out=cut.pieces(_tokens(encode, held, 1 << 30), rows[1]),
        held_out_recall=[cut.row(encode(_facts(words, rng, length))) for _ in range(rows[2])],
    )


@dataclass(frozen=True, slots=True)
class _Cutter:
    first: int | None
    length: int

    def row(self, tokens: Sequence[int]) -> list[int]:
        head = [] if self.first is None else [self.first]
        return [*head, *tokens][: self.length]

    def pieces(self, tokens: Sequence[int], count: int) -> list[list[int]]:
        """Evenly spread stretches."""
        last = max(0, len(tokens) - self.length)
        starts = [round(i * last / max(1, count - 1)) for i in range(count)]
        return [self.row(tokens[s : s + self.length]) for s in starts]


def _tokens(encode: Encode, texts: Sequence[str], enough: int) -> list[int]:
    found: list[int] = []
    for text in texts:
        found += encode(text)
        if len(found) >= enough:
            break
    return found


def _words(texts: Sequence[str]) -> list[str]:
    counts = Counter(re.findall(r"(?<= )[a-z]{4,9}(?=[ ,.;:)])", "\n".join(texts)))
    return sorted(word for word, _ in counts.most_common(_WORDS))


def _facts(words: Sequence[str], rng: random.Random, length: int) -> str:
    """Facts and questions about them, about one and a half times as long as asked for."""
    lines, keys = [], rng.sample(words, min(len(words), max(2, length // 24)))
    facts = {key: rng.choice(words) for key in keys}
    if rng.random() < 0.5:
        lines += [f"- {key} = {value}" for key, value in facts.items()]
        ask = "? {} = {}"
    else:
        lines += [f"The code for {key} is {value}." for key, value in facts.items()]
        ask = "Q: What is the code for {0}?\nA: The code for {0} is {1}."
    while len(lines) < length // 4:
        key = rng.choice(keys)
        lines.append(ask.format(key, facts[key]))
    return "\n".join(lines)
