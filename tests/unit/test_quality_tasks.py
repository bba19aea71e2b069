"""Questions: the same from the same seed, as long as asked, the fact where it is said to be."""

from __future__ import annotations

import re

import pytest

from stepwell.base.errors import ConfigError
from stepwell.evaluate.quality_tasks import TASKS, check_tasks, make_material, make_question


class Tokens:
    """One token a word with its space, one a sign or digit; ids handed out as they come."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {"<s>": 0}

    def encode(self, text: str) -> list[int]:
        found = re.findall(r" ?[A-Za-z]+|\d|\s|[^\w\s]", text)
        assert "".join(found) == text
        return [self.ids.setdefault(piece, len(self.ids)) for piece in found]

    def decode(self, ids: list[int]) -> str:
        names = {number: piece for piece, number in self.ids.items()}
        return "".join(names[number] for number in ids)


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture(scope="module")
def made(tokens: Tokens):
    filler = tokens.encode(" the quick fox jumps and runs over it." * 300)
    return make_material(tokens.encode, opening=[0], filler=filler)


@pytest.mark.parametrize("name", TASKS)
def test_a_question_can_be_answered_from_its_context(name: str, made, tokens: Tokens) -> None:
    for index in range(12):
        asked = make_question(name, made, seed=3, index=index, length=600)
        text = tokens.decode(asked.context)
        assert 580 < len(asked.context) <= 600 and asked.context[0] == 0
        assert asked.is_right(text)
        place = text.index(asked.answers[0]) / len(text)
        assert asked.depth == pytest.approx(index % 10 / 10 + 0.05, abs=0.08)
        if name not in ("pairs", "codes"):  # there, a value may be another key too
            assert place == pytest.approx(asked.depth, abs=0.15)
        assert not any(answer in tokens.decode(asked.question) for answer in asked.answers)
        assert asked.new_tokens >= len(tokens.encode(" " + ", ".join(asked.answers)))


@pytest.mark.parametrize("name", TASKS)
def test_seeds_and_indices_make_questions(name: str, made) -> None:
    first = make_question(name, made, seed=1, index=4, length=300)
    assert first == make_question(name, made, seed=1, index=4, length=300)
    others = [(2, 4), (1, 5)]
    for seed, index in others:
        assert make_question(name, made, seed=seed, index=index, length=300) != first


def test_answers_are_whole_words_and_all_of_them(made) -> None:
    asked = make_question("multivalue", made, seed=1, index=0, length=300)
    assert asked.is_right("they are " + ", ".join(reversed(asked.answers)))
    assert not asked.is_right("they are " + ", ".join(asked.answers[:-1]))
    assert not asked.is_right(" ".join(answer + "0" for answer in asked.answers))


def test_refusals(made) -> None:
    with pytest.raises(ConfigError, match="needel"):
        check_tasks(["needle", "needel"])
    with pytest.raises(ConfigError, match="cannot be made"):
        make_question("needle", made, seed=1, index=0, length=100_000)
    with pytest.raises(ConfigError, match="cannot be made"):
        make_question("multikey", made, seed=1, index=0, length=20)
