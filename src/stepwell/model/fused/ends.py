"""What is before and behind the layers of a causal language model: embedding, norm, head, and the
rows that they read and write in a step of decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepwell.kernels.argmax import cpu as argmax
from stepwell.kernels.linear.panels import PanelLinear, padded_columns
from stepwell.kernels.norm.module import CompiledRmsNorm

Integers = NDArray[np.int64]


class DecodeRows:
    """Owns what a step of decoding up to `capacity` sequences reads and leaves: `tokens` and
    `positions` int64 [capacity], which a step turns into the next one's; `chosen` int64 [steps,
    capacity], each step's tokens; `logits` bfloat16 [capacity, columns] of the last step."""

    def __init__(self, head: PanelLinear, *, capacity: int, steps: int) -> None:
        self.capacity, self.steps = capacity, steps
        self.tokens: Integers = np.zeros(capacity, dtype=np.int64)
        self.positions: Integers = np.zeros(capacity, dtype=np.int64)
        self.chosen: Integers = np.zeros((steps, capacity), dtype=np.int64)
        pieces = argmax.pieces_of(head.out_features)
        self.found: Integers = np.zeros((capacity, pieces), dtype=np.int64)
        with torch.inference_mode(mode=False):
            self.logits = torch.zeros(capacity, padded_columns(head), dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class StepEnds:
    """Tables bfloat16 [vocabulary, H], [positions, D]; `norm`: weight and epsilon."""

    embedding: Tensor
    cos: Tensor
    sin: Tensor
    norm: tuple[Tensor, float]
    head: PanelLinear
    rows: DecodeRows


def ends_refusal(model: Any) -> str | None:
    """Why the ends of this causal language model cannot be part of a program, or None."""
    embedding, norm, head = model.model.embed_tokens, model.model.norm, model.lm_head
    if type(embedding) is not nn.Embedding or embedding.weight.dtype != torch.bfloat16:
        return "the embedding is not a plain bfloat16 table"
    if not isinstance(norm, CompiledRmsNorm):
        return "the last norm is not compiled"
    if not isinstance(head, PanelLinear):
        return "the head is not in panels"
    logits = torch.empty(1, head.out_features, dtype=torch.bfloat16)
    return argmax.refusal(logits)
