"""Recall questions with known answers, made from seeds for any tokenizer.

`pairs` and `codes` are what the house model learned (house/probes.py: nothing but pairs, and facts
in library text; answers are one word). The others follow RULER (arXiv:2404.06654): `needle`, one
number in a haystack; `multikey`, many needles of which one is asked; `multivalue`, four numbers of
one key; `variables`, chains of assignments. RULER's repeated filler sentences are replaced by real
text, since repetition flatters a codec with DEFLATE.

A context is what will be cached; the question is asked on the restored cache.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.evaluate.codec_text import library_texts

Encode = Callable[[str], list[int]]
_LEAST_SEEN = 40  # times a word stands alone in the library to count as one
_LEAST_WORDS = 100
_FACTS = 8
_VALUES = 4
_HOPS = 4


@dataclass(frozen=True, slots=True)
class Question:
    """`answers`: all must be written, in any order, within `new_tokens`. `depth`: where in the
    context the (first) fact stands, 0 to 1."""

    context: list[int]
    question: list[int]
    answers: tuple[str, ...]
    new_tokens: int
    depth: float

    def is_right(self, text: str) -> bool:
        """Whether a generated text has the answers, each as a whole word."""
        return all(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Material:
    """What questions are made of. `opening`: tokens that open every text; `filler`: tokens of real
    text; `words`: each one token after a space where the tokenizer has enough of these."""

    encode: Encode
    opening: list[int]
    words: list[str]
    filler: list[int]


def make_material(encode: Encode, *, opening: list[int], filler: list[int]) -> Material:
    """Words are those of the standard library that a tokenizer keeps whole."""
    seen, _ = library_texts()
    counts = Counter(re.findall(r"(?<= )[a-z]{4,}(?=[ ,.;:)])", "\n".join(seen)))
    known = sorted(word for word, count in counts.items() if count >= _LEAST_SEEN)
    single = [word for word in known if len(encode(" " + word)) == 1]
    return Material(encode, opening, single if len(single) >= _LEAST_WORDS else known, filler)


@dataclass(frozen=True, slots=True)
class _Fact:
    depth: float
    text: str


def _pairs(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    """`- river = castle` lines from start to end."""
    keys = rng.sample(made.words, len(made.words))
    context, places, values = list(made.opening), [], []
    for key in keys:
        value = rng.choice(made.words)
        line = made.encode(f"- {key} = {value}\n")
        if len(context) + len(line) > length:
            break
        places.append(len(context))
        values.append(value)
        context += line
    asked = min(len(values) - 1, int(depth * len(values)))
    question = made.encode(f"? {keys[asked]} =")
    return _question(made, context, question, (values[asked],), places[asked] / len(context))


def _codes(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    """Eight facts of one word in real text."""
    keys, values = rng.sample(made.words, _FACTS), rng.choices(made.words, k=_FACTS)
    facts = [
        _Fact(depth if i == 0 else rng.random(), f"\nThe code for {key} is {value}.\n")
        for i, (key, value) in enumerate(zip(keys, values, strict=True))
    ]
    context = _haystack(made, rng, length, facts)
    key = keys[0]
    ask = made.encode(f"\nQ: What is the code for {key}?\nA: The code for {key} is")
    return _question(made, context, ask, (values[0],), depth)


def _number(rng: random.Random) -> str:
    return str(rng.randrange(1_000_000, 10_000_000))


def _needles(made: Material, rng: random.Random, length: int, depth: float, keys: int) -> Question:
    names, numbers = rng.sample(made.words, keys), [_number(rng) for _ in range(keys)]
    facts = [
        _Fact(
            depth if i == 0 else rng.random(),
            f"\nOne of the special magic numbers for {name} is: {number}.\n",
        )
        for i, (name, number) in enumerate(zip(names, numbers, strict=True))
    ]
    context = _haystack(made, rng, length, facts)
    ask = made.encode(
        f"\nWhat is the special magic number for {names[0]} mentioned in the provided text? "
        f"The special magic number for {names[0]} mentioned in the provided text is"
    )
    return _question(made, context, ask, (numbers[0],), depth)


def _needle(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    return _needles(made, rng, length, depth, 1)


def _multikey(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    return _needles(made, rng, length, depth, _FACTS)


def _multivalue(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    """Four numbers of one key; all are asked."""
    name, numbers = rng.choice(made.words), tuple(_number(rng) for _ in range(_VALUES))
    facts = [
        _Fact(
            depth if i == 0 else rng.random(),
            f"\nOne of the special magic numbers for {name} is: {number}.\n",
        )
        for i, number in enumerate(numbers)
    ]
    context = _haystack(made, rng, length, facts)
    ask = made.encode(
        f"\nWhat are all the special magic numbers for {name} mentioned in the provided text? "
        f"The special magic numbers for {name} mentioned in the provided text are"
    )
    return _question(made, context, ask, numbers, depth)


def _variables(made: Material, rng: random.Random, length: int, depth: float) -> Question:
    """A chain of four further assignments of a number; all its variables are asked."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names = ["".join(rng.choices(letters, k=5)) for _ in range(_HOPS + 1)]
    number = str(rng.randrange(10_000, 100_000))
    lines = [f"\nVAR {names[0]} = {number}\n"]
    lines += [f"\nVAR {new} = VAR {old}\n" for old, new in pairwise(names)]
    places = [depth, *sorted(rng.uniform(depth, 1.0) for _ in range(_HOPS))]
    facts = [_Fact(place, line) for place, line in zip(places, lines, strict=True)]
    context = _haystack(made, rng, length, facts)
    ask = made.encode(
        f"\nFind all variables that are assigned the value {number} in the text above. Answer: "
        f"According to the chain of variable assignment in the text above, {len(names)} variables "
        f"are assigned the value {number}, they are:"
    )
    return _question(made, context, ask, tuple(names), depth)


def _haystack(made: Material, rng: random.Random, length: int, facts: Sequence[_Fact]) -> list[int]:
    """Real text with the facts at their depths; `length` tokens in all."""
    texts = [(fact.depth, made.encode(fact.text)) for fact in facts]
    room = length - len(made.opening) - sum(len(text) for _, text in texts)
    if room < 1 or len(made.filler) < room:
        raise ConfigError(
            f"a context of {length} tokens cannot be made of {len(made.filler)} tokens of text.",
            hint="Ask for another --length, or give more --text.",
            param="length",
        )
    start = rng.randrange(len(made.filler) - room + 1)
    words, found, last = made.filler[start : start + room], list(made.opening), 0
    for depth, text in sorted(texts, key=lambda pair: pair[0]):
        cut = int(depth * room)
        found += [*words[last:cut], *text]
        last = cut
    return found + words[last:]


def _question(
    made: Material, context: list[int], question: list[int], answers: tuple[str, ...], depth: float
) -> Question:
    """One word may take exactly its tokens; several may be joined by words of the model's own."""
    size = len(made.encode(" " + ", ".join(answers)))
    return Question(context, question, answers, size if size == 1 else size + size // 2 + 2, depth)


TASKS: dict[str, Callable[[Material, random.Random, int, float], Question]] = {
    "pairs": _pairs,
    "codes": _codes,
    "needle": _needle,
    "multikey": _multikey,
    "multivalue": _multivalue,
    "variables": _variables,
}
HOUSE_TASKS = ("pairs", "codes")
LARGE_TASKS = ("needle", "multikey", "multivalue", "variables")


def check_tasks(names: Sequence[str]) -> None:
    """Raises ConfigError for a task that does not exist."""
    for name in names:
        if name not in TASKS:
            message, hint = unknown_name("task", name, TASKS)
            raise ConfigError(message, hint=hint, param="tasks")


def make_question(name: str, made: Material, *, seed: int, index: int, length: int) -> Question:
    """Question `index` of a task: the same for the same arguments; depths go through deciles."""
    rng = random.Random(f"{seed} {name} {length} {index}")
    return TASKS[name](made, rng, length, (index % 10 + rng.random()) / 10)
