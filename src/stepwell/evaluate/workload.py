"""What is asked: requests of token ids with known lengths, the same for every contestant.

Outputs are greedy and ignore the end token, so that each request yields exactly `max_tokens`
tokens whoever runs it, and tokens a second can be compared.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

REFERENCE_SEED = 184829
"""Of 32 requests with 64 to 768 prompt and 16 to 256 output tokens each, this seed draws 13,121
and 3,598 in total: within 0.2 % of the 13,130 and 3,592 of the batch that rivals were measured
with before, whose seed is not on record."""

_FIRST_TOKEN = 16
"""Ids below are left out: vocabularies keep their special tokens there."""


@dataclass(frozen=True, slots=True)
class Request:
    """`offset`: when to send it, in seconds from the start (0 in a closed loop)."""

    prompt: tuple[int, ...]
    max_tokens: int
    offset: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For the contestants' protocol."""
        return {"prompt": list(self.prompt), "max_tokens": self.max_tokens}


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in the order they are sent."""

    name: str
    requests: tuple[Request, ...]

    @property
    def prompt_tokens(self) -> int:
        """Of all requests."""
        return sum(len(request.prompt) for request in self.requests)

    @property
    def output_tokens(self) -> int:
        """Of all requests."""
        return sum(request.max_tokens for request in self.requests)

    @property
    def longest(self) -> int:
        """Longest prompt plus longest output: what a static batch reserves for each row."""
        return max(len(r.prompt) for r in self.requests) + max(r.max_tokens for r in self.requests)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The requests, for the contestants' protocol."""
        return [request.as_dict() for request in self.requests]

    def as_dict(self) -> dict[str, Any]:
        """What result files say about it."""
        return {
            "name": self.name,
            "requests": len(self.requests),
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "longest": self.longest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A random mix: lengths uniform in the (inclusive) ranges, drawn from `seed`."""

    count: int = 32
    prompt: tuple[int, int] = (64, 768)
    output: tuple[int, int] = (16, 256)
    vocab_size: int = 4096
    seed: int = REFERENCE_SEED

    def draw(self, *, turn: int = 0) -> Workload:
        """The requests. Another `turn` keeps all lengths and changes every token, so that no
        repetition finds its prompts in anyone's prefix cache."""
        lengths = random.Random(self.seed)
        prompts = [lengths.randint(*self.prompt) for _ in range(self.count)]
        outputs = [lengths.randint(*self.output) for _ in range(self.count)]
        source = random.Random(f"{self.seed}/{turn}")
        requests = tuple(
            Request(random_tokens(source, length, vocab_size=self.vocab_size), output)
            for length, output in zip(prompts, outputs, strict=True)
        )
        return Workload(f"mix-{self.seed}-{turn}", requests)


def random_tokens(source: random.Random, count: int, *, vocab_size: int) -> tuple[int, ...]:
    """Uniform over the vocabulary, special tokens left out."""
    return tuple(source.choices(range(min(_FIRST_TOKEN, vocab_size - 1), vocab_size), k=count))
