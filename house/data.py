"""Batches: rows of one length, each of text or of one task, with their targets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from house import tasks
from house.chat import chat_row
from house.corpus import Corpus

Mix = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """ids [rows, length]; where targets are (flat positions), what they are, and whose."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    task: Tensor
    weight: Tensor


def tokens_of(tokenizer: Tokenizer, documents: list[str], end: int) -> np.ndarray:
    """All documents one after another, each closed by the end-of-text token."""
    found: list[int] = []
    for encoding in tokenizer.encode_batch(documents, add_special_tokens=False):
        found.extend(encoding.ids)
        found.append(end)
    return np.array(found, dtype=np.int64)


class Source:
    """Makes rows by task name from the corpus, the generators and one random stream."""

    def __init__(self, tokenizer: Tokenizer, corpus: Corpus, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.pieces = tasks.make_pieces(tokenizer, corpus.train)
        self.all_words = self.pieces.words
        end = tasks.special_id(tokenizer, "<|eos|>")
        self.text = tokens_of(tokenizer, corpus.train, end)
        self.held_out = tokens_of(tokenizer, corpus.held_out, end)
        self.makers: dict[str, tasks.Maker] = {
            "repeat": tasks.repeat,
            "pairs": tasks.pairs,
            "lines": tasks.lines,
            "codes": tasks.codes,
            "trace": tasks.trace,
            "copy": tasks.copy,
            "count": tasks.count,
            "needles": tasks.make_needles(self.window),
            "chat": partial(chat_row, summaries=corpus.summaries),
        }
        self.names = ["text", *self.makers]

    def window(self, rng: np.random.Generator, length: int) -> list[int]:
        """A random stretch of training text."""
        start = int(rng.integers(0, len(self.text) - length))
        return self.text[start : start + length].tolist()

    def row(self, name: str, length: int) -> tasks.Row:
        """One row; in text everything is a target."""
        if name == "text":
            return (
                [self.pieces.bos, *self.window(self.rng, length - 1)],
                [False] + [True] * (length - 1),
            )
        return self.makers[name](self.pieces, self.rng, length)

    def batch(self, mix: Mix, lengths: dict[str, float], tokens: int, text_share: float) -> Batch:
        """Rows of one drawn length; text gets `text_share` of the loss, tasks the rest."""
        sizes = [int(size) for size in lengths]
        odds = np.array(list(lengths.values()), dtype=float)
        length = int(self.rng.choice(sizes, p=odds / odds.sum()))
        names, odds = list(mix), np.array(list(mix.values()), dtype=float)
        rows = max(1, tokens // length)
        drawn = (
            (np.cumsum(odds) / odds.sum())
            .searchsorted((np.arange(rows) + self.rng.random()) / rows)
            .tolist()
        )
        return self._assemble([names[min(i, len(names) - 1)] for i in drawn], length, text_share)

    def _assemble(self, names: list[str], length: int, text_share: float) -> Batch:
        made = [self.row(name, length) for name in names]
        ids = torch.tensor([row[0] for row in made])
        mask = torch.tensor([row[1] for row in made])[:, 1:]
        rows, columns = mask.nonzero(as_tuple=True)
        task = torch.tensor([self.names.index(name) for name in names])[rows]
        is_text = task == 0
        weight = torch.where(
            is_text,
            text_share / max(1, int(is_text.sum())),
            (1 - text_share) / max(1, int((~is_text).sum())),
        )
        return Batch(ids, rows * length + columns, ids[:, 1:][rows, columns], task, weight)

    def held_out_rows(self, rows: int, length: int) -> Tensor:
        """Evenly spaced windows of held-out text, each opened by the begin token."""
        starts = np.linspace(0, len(self.held_out) - length, rows).astype(int)
        made = [[self.pieces.bos, *self.held_out[s : s + length - 1].tolist()] for s in starts]
        return torch.tensor(made)
