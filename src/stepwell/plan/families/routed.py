"""Experts: a router and many feed-forward parts, of which a token passes a few."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from stepwell.plan.architecture import Component, LayerSpec, WeightPart, WeightPrecision
from stepwell.plan.families.pieces import (
    add_attention,
    add_embedding,
    add_feed_forward,
    add_head,
    add_norms,
    attention_layers,
)
from stepwell.plan.families.traits import Heads, QKNorm, Traits
from stepwell.plan.families.windows import WindowRule
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts


class Shared(StrEnum):
    """Feed-forward parts beside the experts, which every token passes."""

    NONE = "none"
    GATED = "one of shared_expert_intermediate_size, and a gate of one number"
    COUNTED = "n_shared_experts times the experts' width"
    ONE = "one of the experts' width"
    WIDE = "one of shared_intermediate_size"


class Placement(StrEnum):
    """Which layers have experts."""

    ALL = "all"
    AFTER_FIRST = "those after first_k_dense_replace"
    SPARSE_STEP = "every decoder_sparse_step-th, but for mlp_only_layers"
    INTERLEAVED = "every interleave_moe_layer_step-th"
    PERIOD = "expert_layer_offset and every expert_layer_period-th after it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """`width`, `dense_width`: fields of the experts' and the other layers' inner size.
    `correction`: each router has a bias of float32 for balancing."""

    width: str = "moe_intermediate_size"
    dense_width: str = "intermediate_size"
    shared: Shared = Shared.NONE
    placement: Placement = Placement.ALL
    biased: bool = False
    correction: bool = False


EXPERT_COUNT = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_QWEN3 = Traits(
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    qk_norm=QKNorm.HEAD,
    windows=WindowRule.SWITCHED,
)
_GRANITE = Traits(qkv_bias="attention_bias", out_bias="attention_bias")

FAMILIES: Mapping[str, tuple[Traits, Routing]] = {
    "glm4_moe": (
        Traits(qkv_bias="attention_bias", qk_norm=QKNorm.HEAD, qk_norm_if="use_qk_norm"),
        Routing(shared=Shared.COUNTED, placement=Placement.AFTER_FIRST, correction=True),
    ),
    "gpt_oss": (
        Traits(
            qkv_bias="attention_bias", out_bias="attention_bias", windows=WindowRule.PATTERN,
            pattern=2,
        ),
        Routing(width="intermediate_size", biased=True),
    ),
    "granitemoe": (_GRANITE, Routing(width="intermediate_size")),
    "llama4_text": (
        Traits(
            qkv_bias="attention_bias", out_bias="attention_bias", windows=WindowRule.CHUNKED,
        ),
        Routing(
            width="intermediate_size", dense_width="intermediate_size_mlp", shared=Shared.ONE,
            placement=Placement.INTERLEAVED,
        ),
    ),
    "minimax_m2": (
        Traits(qk_norm=QKNorm.WIDTH),
        Routing(width="intermediate_size", correction=True),
    ),
    "mixtral": (Traits(windows=WindowRule.ALL), Routing(width="intermediate_size")),
    "olmoe": (
        Traits(qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.WIDTH),
        Routing(width="intermediate_size"),
    ),
    "phimoe": (
        Traits(
            qkv_bias="attention_bias", out_bias="attention_bias", norm_bias=True,
            windows=WindowRule.ALL,
        ),
        Routing(width="intermediate_size"),
    ),
    "qwen2_moe": (
        Traits(qkv_bias="qkv_bias", windows=WindowRule.SWITCHED),
        Routing(shared=Shared.GATED, placement=Placement.SPARSE_STEP),
    ),
    "qwen3_moe": (_QWEN3, Routing(placement=Placement.SPARSE_STEP)),
}  # fmt: skip


def build(fields: Fields) -> tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]:
    """Layers and weights. Raises UnknownArchitecture."""
    traits, routing = FAMILIES[fields.model_type]
    heads, parts = Heads.read(fields), Parts()
    layers = fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    add_attention(parts, fields, traits, heads, copies=layers)
    if fields.model_type == "gpt_oss":
        parts.numbers("self_attn.sinks", Component.ATTENTION, heads.query, copies=layers)
    add_routed(parts, fields, routing)
    add_norms(parts, fields, traits, layers)
    add_head(parts, fields, bias=fields.flag("lm_head_bias", False))
    return attention_layers(fields, traits, heads), parts.all()


def add_routed(parts: Parts, fields: Fields, routing: Routing) -> None:
    """Feed-forward parts of every layer: experts where they are, dense ones elsewhere."""
    hidden = fields.number("hidden_size")
    sparse = len(expert_layers(fields, routing.placement))
    dense = fields.number("num_hidden_layers") - sparse
    if dense:
        width = fields.number(routing.dense_width)
        add_feed_forward(parts, "mlp", hidden, width, copies=dense)
    if sparse:
        add_experts(parts, fields, routing, copies=sparse)
        _add_shared(parts, fields, routing, hidden, sparse)


def add_experts(parts: Parts, fields: Fields, routing: Routing, *, copies: int) -> None:
    """Router and experts of `copies` layers."""
    hidden, width = fields.number("hidden_size"), fields.number(routing.width)
    count, taken = fields.number(*EXPERT_COUNT), fields.number("num_experts_per_tok")
    every, some = count * copies, taken * copies
    kind = Component.EXPERTS
    # A router is no nn.Linear in transformers, and small: it keeps its precision.
    parts.numbers("router.weight", kind, count, hidden, copies=copies)
    if routing.biased:
        parts.numbers("router.bias", kind, count, copies=copies)
    if routing.correction:
        parts.numbers(
            "router.correction", kind, count, copies=copies, precision=WeightPrecision.FP32
        )
    for name, rows, columns in (
        ("gate_up_proj", 2 * width, hidden),
        ("down_proj", hidden, width),
    ):
        parts.stacked(f"experts.{name}", kind, rows, columns, copies=every, active=some)
        if routing.biased:
            parts.numbers(f"experts.{name}_bias", kind, rows, copies=every, active=some)


def _add_shared(parts: Parts, fields: Fields, routing: Routing, hidden: int, copies: int) -> None:
    match routing.shared:
        case Shared.NONE:
            return
        case Shared.GATED:
            width = fields.number("shared_expert_intermediate_size")
            parts.matrix("shared_expert_gate", Component.MLP, 1, hidden, copies=copies)
        case Shared.COUNTED:
            width = fields.number(routing.width) * fields.number("n_shared_experts")
        case Shared.ONE:
            width = fields.number(routing.width)
        case Shared.WIDE:
            width = fields.number("shared_intermediate_size")
    fused = routing.shared is Shared.WIDE
    add_feed_forward(parts, "shared_expert", hidden, width, copies=copies, fused=fused)


def expert_layers(fields: Fields, placement: Placement) -> list[int]:
    """Indices of the layers with experts."""
    layers = range(fields.number("num_hidden_layers"))
    match placement:
        case Placement.ALL:
            return list(layers)
        case Placement.AFTER_FIRST:
            return list(layers[fields.number("first_k_dense_replace") :])
        case Placement.SPARSE_STEP:
            dense = set(fields.get("mlp_only_layers", ()))
            step = fields.number("decoder_sparse_step")
            return [i for i in layers if i not in dense and (i + 1) % step == 0]
        case Placement.INTERLEAVED:
            named = fields.get("moe_layers")
            if named is not None:
                return [int(i) for i in named]
            step = fields.number("interleave_moe_layer_step")
            return list(layers[step - 1 :: step])
        case Placement.PERIOD:
            period, offset = (
                fields.number(f"expert_layer_{name}") for name in ("period", "offset")
            )
            return [i for i in layers if i % period == offset]
