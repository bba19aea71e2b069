"""The attention function that transformers' models call.

transformers looks the name in `config._attn_implementation` up in its attention interface and
hands every keyword of `model.forward` through to it. So the step's context travels as a plain
argument, and no state hides in a global. Because the name is absent from transformers' mask
registry, no mask is built either: causality and windows are the kernels' business.

Tensors here: query [1, q_heads, T, dim], key and value [1, kv_heads, T, dim] with T the new tokens
of all sequences of the step; the answer is [1, T, q_heads, dim].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from stepwell.base.errors import ModelError
from stepwell.kernels.paged_attention import (
    AttentionSpec,
    PagedLayer,
    RaggedBatch,
    merge_partials,
    paged_attention,
    paged_attention_with_lse,
)
from stepwell.kernels.write_kv import write_kv
from stepwell.model.packed import OpenedFront, attend_packed

ATTENTION_NAME = "stepwell"
CONTEXT_ARGUMENT = "stepwell_context"


class AttentionContext(Protocol):
    """What a forward pass hands to every attention layer."""

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
    ) -> Tensor:
        """query [T, q_heads, dim], key and value [T, kv_heads, dim] -> [T, q_heads, value_dim]."""
        ...


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows start:stop of a step belong to a sequence whose front is packed; the first of them is at
    position `first`. `numbers`: of the layers, by module."""

    start: int
    stop: int
    first: int
    front: OpenedFront
    numbers: Mapping[nn.Module, int]


@dataclass(frozen=True, slots=True)
class StepContext:
    """One step over the paged pool: `layers` maps each attention module to its part of it.
    `packed`: sequences that also have keys beside the pool."""

    layers: Mapping[nn.Module, PagedLayer]
    batch: RaggedBatch
    packed: Sequence[PackedRows] = ()

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
    ) -> Tensor:
        """Write the new K and V into their slots, then attend over the pages."""
        layer = self.layers[module]
        write_kv(key, value, layer, self.batch)
        if not self.packed:
            return paged_attention(query, layer, self.batch, spec)
        out, lse = paged_attention_with_lse(query, layer, self.batch, spec)
        for rows in self.packed:
            part = slice(rows.start, rows.stop)
            keys, values = rows.front.layer(rows.numbers[module])
            other = attend_packed(query[part], keys, values, spec, first=rows.first)
            merged, _ = merge_partials((out[part], other[0]), (lse[part], other[1]))
            out[part] = merged
        return out


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One attention layer as seen from outside. `window` in tokens, None for full attention."""

    kv_heads: int
    key_dim: int
    value_dim: int
    q_heads: int
    window: int | None
    softcap: float | None
    has_sinks: bool


@dataclass(slots=True)
class ProbeContext:
    """Learns the layers' shapes by watching one forward pass of a few tokens."""

    shapes: dict[nn.Module, LayerShape] = field(default_factory=dict)

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec
    ) -> Tensor:
        """Record the shapes; answer zeros of the right shape."""
        if module in self.shapes:
            raise ModelError(f"{type(module).__name__} attends twice in one forward pass.")
        self.shapes[module] = LayerShape(
            kv_heads=key.shape[1],
            key_dim=key.shape[2],
            value_dim=value.shape[2],
            q_heads=query.shape[1],
            window=spec.window,
            softcap=spec.softcap,
            has_sinks=spec.sinks is not None,
        )
        return query.new_zeros(query.shape[0], query.shape[1], value.shape[2])


def stepwell_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Entry from transformers; see the module docstring for shapes."""
    context: AttentionContext | None = kwargs.get(CONTEXT_ARGUMENT)
    if context is None:
        raise ModelError(
            f"{type(module).__name__} does not pass keyword arguments on to its attention.",
            hint="This architecture cannot be served.",
        )
    if query.shape[0] != 1:
        raise ModelError("a step is one ragged row, not a padded batch.")
    spec = AttentionSpec(
        scale=scaling if scaling is not None else query.shape[-1] ** -0.5,
        window=sliding_window or None,
        softcap=softcap or None,
        sinks=s_aux,
    )
    out = context.attend(
        module, query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1), spec
    )
    return out.unsqueeze(0), None


def register_attention() -> None:
    """Make `attn_implementation="stepwell"` known to transformers. Safe to call again."""
    AttentionInterface.register(ATTENTION_NAME, stepwell_attention)


def probe_layers(model: nn.Module) -> dict[nn.Module, LayerShape]:
    """The attention layers of a loaded model in the order they run, by asking the model itself.

    Runs one forward pass of two tokens whose attention answers zeros.
    """
    context = ProbeContext()
    device = next(model.parameters()).device
    tokens = torch.zeros(1, 2, dtype=torch.long, device=device)
    positions = torch.arange(2, device=device).unsqueeze(0)
    with torch.inference_mode():
        model(
            input_ids=tokens,
            position_ids=positions,
            use_cache=False,
            **{CONTEXT_ARGUMENT: context},
        )
    return context.shapes
