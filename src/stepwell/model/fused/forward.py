"""A pass through a model whose layers are fused, without the wrappers around it.

transformers' own `forward` builds outputs, masks and caches that a paged step has no use for: some
0.2 ms of Python, and four times that while weights stream through the caches that it would need.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stepwell.model.attention import CONTEXT_ARGUMENT, AttentionContext

if TYPE_CHECKING:
    from stepwell.model.fused.stack import FusedStack

_STACK = "stepwell.model.fused.stack"


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


def fused_logits(
    model: Any, tokens: Tensor, positions: Tensor, *, keep: Tensor, context: AttentionContext
) -> Tensor:
    """tokens and positions int64 [T] -> logits [len(keep), vocabulary] of the rows in `keep`.

    For models of the classes in recognize.FUSED_LAYERS: embedding, layers, norm, head.
    """
    base = model.model
    hidden = base.embed_tokens(tokens.unsqueeze(0))
    tables = base.rotary_emb(hidden, position_ids=positions.unsqueeze(0))
    hidden = base.layers[0](hidden, position_embeddings=tables, **{CONTEXT_ARGUMENT: context})
    logits: Tensor = model.lm_head(base.norm(hidden[0, keep]))
    return logits
