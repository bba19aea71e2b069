"""Models from before Llama, each with names and oddities of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stepwell.plan.architecture import AttentionKind, Component, LayerSpec, WeightPart
from stepwell.plan.families.pieces import (
    add_attention,
    add_embedding,
    add_feed_forward,
    add_head,
    add_norms,
    attention_layer,
)
from stepwell.plan.families.traits import Heads, Traits
from stepwell.plan.families.windows import Reach
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts

Built = tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]
_BIASED = Traits(qkv_bias=True, out_bias=True, norm_bias=True)
_FUSED = Traits(qkv_bias=True, out_bias=True, norm_bias=True, fused_qkv=True)
_OPT_OFFSET = 2  # rows of its position table before position 0


def _finish(
    parts: Parts,
    fields: Fields,
    traits: Traits,
    heads: Heads,
    width: int,
    *,
    bias: bool = True,
) -> Built:
    """Attention, plain feed-forward, norms and head of every layer."""
    layers, hidden = fields.number("num_hidden_layers"), fields.number("hidden_size")
    add_attention(parts, fields, traits, heads, copies=layers)
    add_feed_forward(parts, "mlp", hidden, width, copies=layers, gated=False, bias=bias)
    add_norms(parts, fields, traits, layers)
    add_head(parts, fields)
    return (attention_layer(Reach(AttentionKind.FULL), heads),) * layers, parts.all()


def _gpt2(fields: Fields) -> Built:
    parts, heads = Parts(), Heads.read(fields)
    hidden = fields.number("hidden_size")
    add_embedding(parts, fields)
    positions = fields.number("max_position_embeddings")
    parts.numbers("wpe.weight", Component.EMBEDDING, positions, hidden, copies=1)
    width = fields.get("n_inner") or 4 * hidden
    return _finish(parts, fields, _FUSED, heads, int(width))


def _opt(fields: Fields) -> Built:
    parts, heads = Parts(), Heads.read(fields)
    hidden = fields.number("hidden_size")
    if (fields.get("word_embed_proj_dim") or hidden) != hidden:
        raise fields.refused("word_embed_proj_dim differs from hidden_size")
    if not fields.flag("do_layer_norm_before", True) or not fields.flag("enable_bias", True):
        raise fields.refused("norms after attention, or layers without biases")
    add_embedding(parts, fields)
    rows = fields.number("max_position_embeddings") + _OPT_OFFSET
    parts.numbers("embed_positions.weight", Component.EMBEDDING, rows, hidden, copies=1)
    return _finish(parts, fields, _BIASED, heads, fields.number("ffn_dim"))


def _gpt_neox(fields: Fields) -> Built:
    parts, heads = Parts(), Heads.read(fields)
    bias = fields.flag("attention_bias", True)
    traits = Traits(qkv_bias=bias, out_bias=bias, norm_bias=True, fused_qkv=True)
    add_embedding(parts, fields)
    return _finish(parts, fields, traits, heads, fields.number("intermediate_size"))


def _falcon(fields: Fields) -> Built:
    """Falcon-7B has one K and V for all heads (MQA); the new architecture of 40B has groups."""
    query, hidden = fields.number("num_attention_heads"), fields.number("hidden_size")
    grouped = fields.flag("new_decoder_architecture", False)
    if grouped:
        kv = int(fields.get("num_kv_heads") or query)
    else:
        kv = 1 if fields.flag("multi_query", True) else query
    norms = 1 if fields.flag("parallel_attn", True) else 2
    if grouped:
        norms = int(fields.get("num_ln_in_parallel_attn") or 2)
    bias = fields.flag("bias", False)
    traits = Traits(qkv_bias=bias, out_bias=bias, norm_bias=True, fused_qkv=True, norms=norms)
    parts = Parts()
    add_embedding(parts, fields)
    width = int(fields.get("ffn_hidden_size") or 4 * hidden)
    heads = Heads(query=query, kv=kv, dim=hidden // query)
    return _finish(parts, fields, traits, heads, width, bias=bias)


FAMILIES: Mapping[str, Callable[[Fields], Built]] = {
    "falcon": _falcon,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
}


def build(fields: Fields) -> Built:
    """Layers and weights. Raises UnknownArchitecture."""
    return FAMILIES[fields.model_type](fields)
