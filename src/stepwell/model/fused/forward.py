"""A pass through a model whose layers are fused, without the wrappers around it.

transformers' own `forward` builds outputs, masks and caches that a paged step has no use for: some
0.2 ms of Python, and four times that while weights stream through the caches that it would need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stepwell.model.attention import CONTEXT_ARGUMENT, AttentionContext

if TYPE_CHECKING:
    from stepwell.model.fused.stack import FusedStack

_STACK = "stepwell.model.fused.stack"
_FIXED_ROPE = ("default", "linear", "llama3", "yarn")  # those whose turns depend on nothing else
_TABLE_STEP = 4096  # positions; a table grows by so many


def fused_stack(model: nn.Module) -> FusedStack | None:
    """The stack that stands in for all layers of this causal language model, if one does."""
    if _STACK not in sys.modules:
        return None  # nothing can have been fused
    from stepwell.model.fused.stack import FusedStack

    layers = getattr(getattr(model, "model", None), "layers", None)
    if isinstance(layers, nn.ModuleList) and len(layers) == 1:
        only = layers[0]
        return only if isinstance(only, FusedStack) else None
    return None


class FusedForward:
    """Runs a causal language model of the classes in recognize.FUSED_LAYERS: embedding, layers,
    norm, head. Owns a table of cosines and sines by position, as far as positions have come."""

    def __init__(self, model: Any, stack: FusedStack) -> None:
        self._model = model
        self._base = model.model
        self.stack = stack
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def buffers(self) -> list[Tensor]:
        """The stack's rows, and the tables as far as they have come."""
        return self.stack.workspace + list(self._tables or ())

    def logits(
        self, tokens: Tensor, positions: Tensor, *, keep: Tensor, context: AttentionContext
    ) -> Tensor:
        """tokens and positions int64 [T] -> logits [len(keep), vocabulary] of the rows in `keep`;
        all rows that there are where that is their number."""
        hidden = self._base.embed_tokens(tokens)
        turns = self._turns(hidden, positions)
        kwargs: dict[str, Any] = {CONTEXT_ARGUMENT: context}
        hidden = self.stack(hidden.unsqueeze(0), position_embeddings=turns, **kwargs)[0]
        kept = hidden if len(keep) == len(hidden) else hidden[keep]
        logits: Tensor = self._model.lm_head(self._base.norm(kept))
        return logits

    @property
    def has_tables(self) -> bool:
        """Whether cosines and sines depend on the position alone."""
        return getattr(self._base.rotary_emb, "rope_type", None) in _FIXED_ROPE

    def tables(self, last: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, P, D] of positions up to `last` and more, where `has_tables`."""
        if self._tables is None or last >= self._tables[0].shape[1]:
            many = torch.arange(-(-(last + 1) // _TABLE_STEP) * _TABLE_STEP).unsqueeze(0)
            self._tables = self._base.rotary_emb(self._base.embed_tokens.weight, position_ids=many)
        return self._tables

    def _turns(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [1, T, D] of these positions."""
        if not self.has_tables:
            found: tuple[Tensor, Tensor] = self._base.rotary_emb(
                hidden, position_ids=positions.unsqueeze(0)
            )
            return found
        cos, sin = self.tables(int(positions.max()))
        return cos.index_select(1, positions), sin.index_select(1, positions)
