"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): one latent and one rotary key a
token stand for K and V of all heads. An engine without it keeps K and V written out."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.plan.architecture import AttentionKind, Component, LayerSpec, WeightPart
from stepwell.plan.families.pieces import add_embedding, add_head, add_norms
from stepwell.plan.families.routed import Placement, Routing, Shared, add_routed
from stepwell.plan.families.traits import Traits
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts

_V2 = Routing(shared=Shared.COUNTED, placement=Placement.AFTER_FIRST)
_V3 = Routing(shared=Shared.COUNTED, placement=Placement.AFTER_FIRST, correction=True)
FAMILIES: Mapping[str, Routing] = {"deepseek_v2": _V2, "deepseek_v3": _V3, "kimi_k2": _V3}


def build(fields: Fields) -> tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]:
    """Layers and weights. Raises UnknownArchitecture."""
    parts = Parts()
    layers = fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    layer = _add_attention(parts, fields, layers)
    add_routed(parts, fields, FAMILIES[fields.model_type])
    add_norms(parts, fields, Traits(), layers)
    add_head(parts, fields)
    return (layer,) * layers, parts.all()


def _add_attention(parts: Parts, fields: Fields, layers: int) -> LayerSpec:
    hidden, heads = fields.number("hidden_size"), fields.number("num_attention_heads")
    latent, rope = fields.number("kv_lora_rank"), fields.number("qk_rope_head_dim")
    plain, value = fields.number("qk_nope_head_dim"), fields.number("v_head_dim")
    bias = fields.flag("attention_bias", False)
    rank = fields.optional("q_lora_rank")

    def matrix(name: str, rows: int, columns: int, *, biased: bool = False) -> None:
        parts.matrix(
            f"self_attn.{name}", Component.ATTENTION, rows, columns, copies=layers, bias=biased
        )

    if rank is None:
        matrix("q_proj", heads * (plain + rope), hidden)
    else:
        matrix("q_a_proj", rank, hidden, biased=bias)
        matrix("q_b_proj", heads * (plain + rope), rank)
        parts.numbers("self_attn.q_a_layernorm", Component.NORMS, rank, copies=layers)
    matrix("kv_a_proj_with_mqa", latent + rope, hidden, biased=bias)
    parts.numbers("self_attn.kv_a_layernorm", Component.NORMS, latent, copies=layers)
    matrix("kv_b_proj", heads * (plain + value), latent)
    matrix("o_proj", hidden, heads * value, biased=bias)
    return LayerSpec(
        kind=AttentionKind.LATENT,
        q_heads=heads,
        kv_heads=heads,
        key_dim=plain + rope,
        value_dim=value,
        latent=latent,
        rope=rope,
    )
