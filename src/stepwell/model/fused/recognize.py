"""Which decoder layers can be fused: by class, since a class's code is what the program repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from stepwell.kernels.linear.panels import PanelLinear
from stepwell.kernels.linear.units import UNIT_ROWS
from stepwell.kernels.norm import cpu as norm
from stepwell.model.attention import LayerShape

# x + attention(norm(x)), then x + down(silu(gate(norm(x))) * up(norm(x))); rotary by halves; a norm
# on each query and key head where `q_norm` is. tests/model/test_fused.py compares each.
FUSED_LAYERS = frozenset(
    {
        "transformers.models.llama.modeling_llama.LlamaDecoderLayer",
        "transformers.models.mistral.modeling_mistral.MistralDecoderLayer",
        "transformers.models.qwen2.modeling_qwen2.Qwen2DecoderLayer",
        "transformers.models.qwen3.modeling_qwen3.Qwen3DecoderLayer",
    }
)
_LANES = 16


@dataclass(frozen=True, slots=True, eq=False)
class LayerParts:
    """One layer's modules, with the names that transformers gives them."""

    layer: nn.Module
    attention: nn.Module
    shape: LayerShape

    def linear(self, name: str) -> PanelLinear:
        """A projection, such as `q_proj` or `gate_proj`."""
        owner = self.attention if hasattr(self.attention, name) else self.layer.mlp
        found: PanelLinear = getattr(owner, name)
        return found

    @property
    def scale(self) -> float:
        """Factor on the products of queries and keys."""
        attention: Any = self.attention
        return float(attention.scaling)

    def norm(self, name: str) -> tuple[Tensor, float]:
        """Weight and epsilon of a norm of the layer's."""
        module: Any = getattr(self.layer, name)
        return module.weight, module.variance_epsilon

    def head_norm(self, name: str) -> tuple[Tensor, float] | None:
        """Weight and epsilon of `q_norm` or `k_norm`, where heads are normalized."""
        module: Any = getattr(self.attention, name, None)
        return None if module is None else (module.weight, module.variance_epsilon)


PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def class_name(module: nn.Module) -> str:
    """With its module's path."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def parts_of(layer: nn.Module, shapes: Mapping[nn.Module, LayerShape]) -> LayerParts | str:
    """The parts of a layer that can be fused, or why it cannot."""
    if class_name(layer) not in FUSED_LAYERS:
        return f"{type(layer).__name__} is not of the Llama shape"
    attention: Any = layer.self_attn
    shape = shapes.get(attention)
    if shape is None:
        return "its attention was not probed"
    parts = LayerParts(layer=layer, attention=attention, shape=shape)
    mlp: Any = layer.mlp
    if not isinstance(mlp.act_fn, nn.SiLU) and type(mlp.act_fn).__name__ != "SiLUActivation":
        return f"its activation is {type(mlp.act_fn).__name__}"
    if shape.softcap is not None or shape.has_sinks or shape.key_dim != shape.value_dim:
        return "its attention has a soft cap, sinks or unequal heads"
    if shape.key_dim % (2 * _LANES):
        return f"heads of {shape.key_dim} are not a multiple of {2 * _LANES}"
    for name in PROJECTIONS:
        found = parts.linear(name)
        if not isinstance(found, PanelLinear):
            return f"{name} is not in panels"
        if found.out_features % UNIT_ROWS:  # padded: the kernel would write past its rows' ends
            return f"{name} has {found.out_features} columns, which are not whole units"
    return norm.refusal(parts.norm("input_layernorm")[0]) or parts
