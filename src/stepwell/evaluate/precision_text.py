"""How far other weights move the predictions on text: KL, likeliest token, perplexity.

The unquantized model goes first and its predictions are kept, so that two models need not be in
memory together. Of a large vocabulary only the 4,096 likeliest tokens of each position are kept and
the others taken together as one: that KL is a lower bound, and exact where the vocabulary is no
larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stepwell.evaluate.quality_cache import Caches
from stepwell.evaluate.quality_fidelity import Fidelity

KEPT = 4096
_PIECE = 128  # positions of one step: a large vocabulary's logits are large


@dataclass(frozen=True, slots=True)
class Passage:
    """A text: `context` is read, then each token of `following` but the first is predicted."""

    context: list[int]
    following: list[int]


@dataclass(frozen=True, slots=True)
class Kept:
    """The unquantized model's predictions at some positions: log-probabilities of the likeliest
    tokens [n, kept] and which they are (None: all, in order), and the likeliest [n]."""

    logs: Tensor
    tokens: Tensor | None
    best: Tensor

    @classmethod
    def of(cls, logs: Tensor) -> Kept:
        """From log-probabilities [n, vocabulary]."""
        if logs.shape[-1] <= KEPT:
            return cls(logs, None, logs.argmax(-1))
        found = logs.topk(KEPT, dim=-1)
        return cls(found.values, found.indices.int(), found.indices[:, 0])

    def divergence(self, logs: Tensor) -> Tensor:
        """KL(unquantized || these) [n] in nats, of log-probabilities [n, vocabulary]."""
        base = self.logs.double()
        if self.tokens is None:
            return _kl(base, logs.double()).clamp(min=0.0)
        other = logs.gather(-1, self.tokens.long()).double()
        rest = [torch.log1p(-side.exp().sum(-1).clamp(max=1 - 1e-12)) for side in (base, other)]
        pair = [torch.cat([s, r[:, None]], -1) for s, r in zip((base, other), rest, strict=True)]
        return _kl(pair[0], pair[1]).clamp(min=0.0)


def _kl(base: Tensor, other: Tensor) -> Tensor:
    terms = base.exp() * (base - other)
    # An impossible token on both sides is no difference, though its term is not a number.
    return torch.where(base == -math.inf, 0.0, terms).sum(-1)


@dataclass(slots=True)
class TextResult:
    """Over all passages. `kl` and `loss` (nats for each position), passage by passage."""

    kl: list[list[float]] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)
    agreed: int = 0

    def fidelity(self) -> Fidelity:
        """In the form that `stepwell evaluate quality` reports."""
        losses = [value for passage in self.loss for value in passage]
        return Fidelity([value for passage in self.kl for value in passage], self.agreed,
                        math.fsum(losses))  # fmt: skip

    @property
    def kl_mean(self) -> float:
        """Nats a position."""
        flat = [value for passage in self.kl for value in passage]
        return math.fsum(flat) / len(flat)


@dataclass(slots=True)
class Reference:
    """The unquantized model on all passages."""

    kept: list[list[Kept]] = field(default_factory=list)
    found: TextResult = field(default_factory=TextResult)

    def add(self, caches: Caches, passage: Passage) -> None:
        """One passage more."""
        kept: list[Kept] = []
        losses: list[float] = []
        for logs, targets in _predictions(caches, passage):
            kept.append(Kept.of(logs))
            losses += _losses(logs, targets)
        self.kept.append(kept)
        self.found.loss.append(losses)


def compare(
    caches: Caches, passage: Passage, kept: Sequence[Kept], found: TextResult
) -> TextResult:
    """Add what other weights predict on a passage."""
    kls: list[float] = []
    losses: list[float] = []
    for (logs, targets), base in zip(_predictions(caches, passage), kept, strict=True):
        kls += base.divergence(logs).tolist()
        losses += _losses(logs, targets)
        found.agreed += int((logs.argmax(-1) == base.best).sum())
    found.kl.append(kls)
    found.loss.append(losses)
    return found


def _losses(logs: Tensor, targets: Tensor) -> list[float]:
    found: list[float] = (-logs.gather(-1, targets[:, None])[:, 0]).tolist()
    return found


def _predictions(caches: Caches, passage: Passage) -> Iterator[tuple[Tensor, Tensor]]:
    """Log-probabilities [n, vocabulary] and the tokens that came [n], piece by piece."""
    if passage.context:
        caches.feed(passage.context)
    start, tokens = len(passage.context), passage.following
    for at in range(0, len(tokens) - 1, _PIECE):
        stop = min(at + _PIECE, len(tokens) - 1)
        logits = caches.extend([tokens[at:stop]], start=start + at)[0]
        yield torch.log_softmax(logits, -1), torch.tensor(tokens[at + 1 : stop + 1])


def make_passages(
    tokens: Sequence[int], *, opening: Sequence[int], count: int, context: int, following: int
) -> list[Passage]:
    """`count` stretches, evenly spread: `context` tokens (the opening ones among them) and
    `following`. Fewer where the text is too short for so many without overlap."""
    size = context - len(opening)
    room = len(tokens) - size - following
    if room < 0:
        return []
    fitting = min(count, 1 + room // (size + following))
    starts = [round(i * room / max(1, fitting - 1)) for i in range(fitting)]
    return [
        Passage(
            [*opening, *tokens[at : at + size]], list(tokens[at + size : at + size + following])
        )
        for at in starts
    ]
