"""The rows that the kernels of a program write, one allocation per bucket of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stepwell.kernels.linear.activations import Rounded
from stepwell.model.fused.recognize import PROJECTIONS, LayerParts

_LEAST_ROWS = 16


def bucket_for(rows: int) -> int:
    """Rows of the smallest workspace for so many: a power of two."""
    return max(_LEAST_ROWS, 1 << (rows - 1).bit_length())


class Workspace:
    """Owns rows [capacity, columns] of bfloat16 by name, and rounded activations by (columns,
    group). All layers of a model share it, one after the other."""

    def __init__(self, layers: Sequence[LayerParts], *, capacity: int) -> None:
        first = layers[0]
        hidden = first.linear("o_proj").out_features
        queries = first.linear("q_proj").out_features
        keys = first.linear("k_proj").out_features
        inner = max(parts.linear("gate_proj").out_features for parts in layers)
        self.capacity = capacity
        widths = {
            "hidden": hidden, "middle": hidden, "normed": hidden, "query": queries, "key": keys,
            "value": keys, "attended": queries, "gate": inner, "product": inner,
            "cos": first.shape.key_dim, "sin": first.shape.key_dim,
        }  # fmt: skip
        with torch.inference_mode(mode=False):
            self.rows = {
                name: torch.zeros(capacity, width, dtype=torch.bfloat16)
                for name, width in widths.items()
            }
            self.rounded = {
                key: Rounded.empty(capacity, key[0], group=key[1])
                for key in sorted(_rounded_sizes(layers))
            }

    @property
    def tensors(self) -> list[Tensor]:
        """All rows."""
        tensors: list[Tensor] = list(self.rows.values())
        for rounded in self.rounded.values():
            tensors += [rounded.levels, rounded.scales]
        return tensors


def _rounded_sizes(layers: Sequence[LayerParts]) -> set[tuple[int, int]]:
    linears = [parts.linear(name) for parts in layers for name in PROJECTIONS]
    return {(m.in_features, m.group) for m in linears if m.needs_rounded}
