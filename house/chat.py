"""Conversations in the chat template: facts given over several turns and asked for again.

Sentences for facts and answers share their wording, so that an answer is a look-up.
"""

from __future__ import annotations

import numpy as np

from house.tasks import Builder, Pieces, Row

GREETINGS = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Thank you.", "You are welcome."),
    ("Thanks!", "You are welcome."),
    ("Who are you?", "I am the house model, a small model that remembers what you say."),
)
SYSTEM = "You are a helpful assistant that remembers what the user says."
NOUNS = ("code", "value", "name", "color", "password", "number")


class Conversation:
    """One chat being written, with what the user has said so far."""

    def __init__(
        self,
        pieces: Pieces,
        rng: np.random.Generator,
        length: int,
        summaries: list[tuple[str, str]],
    ) -> None:
        self.pieces, self.rng, self.summaries = pieces, rng, summaries
        self.out = Builder(pieces, length)
        self.facts: dict[int, tuple[str, list[int]]] = {}

    def turn(self, asked: list[int], answered: list[int]) -> None:
        """A user message and the assistant's answer, which is what is learned."""
        ids = self.pieces.ids
        self.out.add(
            [
                *ids("<|user|>"),
                *ids("\n"),
                *asked,
                *ids("<|end|>"),
                *ids("\n"),
                *ids("<|assistant|>"),
                *ids("\n"),
            ]
        )
        self.out.add([*answered, *ids("<|end|>")], answer=True)
        self.out.add(ids("\n"))

    def sentence(self, key: int, space: str = "") -> list[int]:
        """`The code for river is castle.`"""
        noun, value = self.facts[key]
        return [
            *self.pieces.ids(f"{space}The {noun} for"),
            key,
            *self.pieces.ids(" is"),
            *value,
            *self.pieces.ids("."),
        ]

    def tell(self) -> None:
        """The user gives one to three facts."""
        ids = self.pieces.ids
        told = ids("Remember:") if self.rng.random() < 0.4 else []
        for _ in range(int(self.rng.integers(1, 4))):
            key = int(self.rng.choice(self.pieces.words))
            if key in self.facts:
                continue
            digits = ids("0123456789")
            value = [int(self.rng.choice(self.pieces.words))]
            if self.rng.random() < 0.4:
                value = ids(" ") + [digits[i] for i in self.rng.integers(0, 10, 4)]
            self.facts[key] = (str(self.rng.choice(NOUNS)), value)
            told = told + self.sentence(key, " " if told else "")
        if len(told) > 4:
            self.turn(told, ids("I will remember that."))

    def ask(self) -> None:
        """The user asks for one fact."""
        key = list(self.facts)[int(self.rng.integers(len(self.facts)))]
        noun = self.facts[key][0]
        self.turn(
            [*self.pieces.ids(f"What is the {noun} for"), key, *self.pieces.ids("?")],
            self.sentence(key),
        )

    def other(self) -> None:
        """A greeting, or a question about the standard library."""
        ids = self.pieces.ids
        if self.rng.random() < 0.3 or not self.summaries:
            said, answer = GREETINGS[int(self.rng.integers(len(GREETINGS)))]
            self.turn(ids(said), ids(answer))
            return
        name, text = self.summaries[int(self.rng.integers(len(self.summaries)))]
        encode = self.pieces.tokenizer.encode
        self.turn(
            encode(f"What does {name} do?", add_special_tokens=False).ids,
            encode(text, add_special_tokens=False).ids,
        )


def chat_row(
    pieces: Pieces, rng: np.random.Generator, length: int, summaries: list[tuple[str, str]]
) -> Row:
    """A conversation as long as the context."""
    talk = Conversation(pieces, rng, length, summaries)
    if rng.random() < 0.4:
        talk.out.add(
            [
                *pieces.ids("<|system|>"),
                *pieces.ids("\n"),
                *pieces.ids(SYSTEM),
                *pieces.ids("<|end|>"),
                *pieces.ids("\n"),
            ]
        )
    telling, others = rng.uniform(0.2, 0.6), rng.uniform(0.0, 0.25)
    while talk.out.room() > 0:
        choice = rng.random()
        if choice < others:
            talk.other()
        elif not talk.facts or choice < others + telling:
            talk.tell()
        else:
            talk.ask()
    return talk.out.row()
