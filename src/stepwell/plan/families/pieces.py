"""Weights that most kinds of models share: embedding, attention, feed-forward, norms, head."""

from __future__ import annotations

from stepwell.plan.architecture import Component, LayerSpec, StateSpec
from stepwell.plan.families.traits import Heads, QKNorm, Traits, chosen
from stepwell.plan.families.windows import Reach, reaches
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts


def attention_layers(fields: Fields, traits: Traits, heads: Heads) -> tuple[LayerSpec, ...]:
    """One for each layer, of equal heads."""
    return tuple(
        attention_layer(reach, heads)
        for reach in reaches(fields, traits.windows, pattern=traits.pattern)
    )


def attention_layer(reach: Reach, heads: Heads, *, state: StateSpec | None = None) -> LayerSpec:
    """K and V of equal heads, and a state beside them where there is one."""
    return LayerSpec(
        kind=reach.kind,
        window=reach.window,
        q_heads=heads.query,
        kv_heads=heads.kv,
        key_dim=heads.dim,
        value_dim=heads.dim,
        state=state,
    )


def add_embedding(parts: Parts, fields: Fields) -> None:
    """The table of token embeddings."""
    size = fields.number("vocab_size"), fields.number("hidden_size")
    parts.numbers("embed_tokens.weight", Component.EMBEDDING, *size, copies=1)


def add_head(parts: Parts, fields: Fields, *, bias: bool = False) -> None:
    """The output head, where it is not the embedding."""
    vocab, hidden = fields.number("vocab_size"), fields.number("hidden_size")
    if not fields.flag("tie_word_embeddings", True):
        parts.matrix("lm_head", Component.HEAD, vocab, hidden, copies=1, bias=bias)
    elif bias:
        parts.numbers("lm_head.bias", Component.HEAD, vocab, copies=1)


def add_attention(
    parts: Parts, fields: Fields, traits: Traits, heads: Heads, *, copies: int
) -> None:
    """Projections of queries, keys, values and the output, and norms of the first two."""
    hidden, kind = fields.number("hidden_size"), Component.ATTENTION
    bias = chosen(fields, traits.qkv_bias)
    query = heads.query * (2 if traits.output_gate else 1)
    if traits.fused_qkv:
        widths = {"qkv_proj": query + 2 * heads.kv}
    else:
        widths = {"q_proj": query, "k_proj": heads.kv, "v_proj": heads.kv}
    for name, count in widths.items():
        rows = count * heads.dim
        parts.matrix(f"self_attn.{name}", kind, rows, hidden, copies=copies, bias=bias)
    parts.matrix(
        "self_attn.o_proj",
        kind,
        hidden,
        heads.query * heads.dim,
        copies=copies,
        bias=chosen(fields, traits.out_bias),
    )
    if traits.qk_norm_if and not fields.flag(traits.qk_norm_if, False):
        return
    for name, count in (("q", heads.query), ("k", heads.kv)):
        if traits.qk_norm is not QKNorm.NONE:
            size = heads.dim * (count if traits.qk_norm is QKNorm.WIDTH else 1)
            parts.numbers(f"self_attn.{name}_norm.weight", Component.NORMS, size, copies=copies)


def add_feed_forward(
    parts: Parts,
    name: str,
    hidden: int,
    width: int,
    *,
    copies: int,
    gated: bool = True,
    fused: bool = False,
    bias: bool = False,
) -> None:
    """Gate, up and down (or up and down) projections."""
    inner = {"gate_proj": width, "up_proj": width} if gated else {"up_proj": width}
    if gated and fused:
        inner = {"gate_up_proj": 2 * width}
    for part, rows in inner.items():
        parts.matrix(f"{name}.{part}", Component.MLP, rows, hidden, copies=copies, bias=bias)
    parts.matrix(f"{name}.down_proj", Component.MLP, hidden, width, copies=copies, bias=bias)


def add_norms(parts: Parts, fields: Fields, traits: Traits, layers: int) -> None:
    """Norms of the layers, and the last one."""
    hidden = fields.number("hidden_size")
    for name in ["weight", "bias"] if chosen(fields, traits.norm_bias) else ["weight"]:
        parts.numbers(f"norms.{name}", Component.NORMS, hidden, copies=traits.norms * layers)
        if traits.final_norm:
            parts.numbers(f"norm.{name}", Component.NORMS, hidden, copies=1)
