"""Decoders of attention and one feed-forward part in every layer: Llama and its many relatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stepwell.plan.architecture import Component, LayerSpec, WeightPart
from stepwell.plan.families.windows import WindowRule, reaches
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts


class QKNorm(StrEnum):
    """Norms of queries and keys."""

    NONE = "none"
    HEAD = "one weight of head_dim for all heads"
    FULL = "one weight over all heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What sets a model type apart. A string where a flag could stand names the configuration's
    field that decides. `norms`: weights of hidden_size in a layer."""

    qkv_bias: bool | str = False
    out_bias: bool | str = False
    mlp_bias: bool | str = False
    qk_norm: QKNorm = QKNorm.NONE
    gated: bool = True
    norms: int = 2
    norm_bias: bool | str = False
    final_norm: bool = True
    head_bias: bool = False
    windows: WindowRule = WindowRule.NONE
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _chosen(fields: Fields, choice: bool | str) -> bool:  # noqa: FBT001
    return choice if isinstance(choice, bool) else fields.flag(choice, False)


FAMILIES: Mapping[str, Traits] = {
    "gemma2": Traits(
        norms=4,
        windows=WindowRule.PATTERN,
        defaults={"tie_word_embeddings": True, "sliding_window_pattern": 2},
    ),
    "gemma3_text": Traits(
        norms=4,
        qk_norm=QKNorm.HEAD,
        windows=WindowRule.PATTERN,
        defaults={
            "tie_word_embeddings": True,
            "sliding_window_pattern": 6,
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 4096,
            "max_position_embeddings": 131_072,
        },
    ),
    "llama": Traits(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Traits(windows=WindowRule.ALL),
    "phi3": Traits(windows=WindowRule.ALL),
    "qwen2": Traits(qkv_bias=True, windows=WindowRule.SWITCHED),
    "qwen3": Traits(
        qkv_bias="attention_bias",
        out_bias="attention_bias",
        qk_norm=QKNorm.HEAD,
        windows=WindowRule.SWITCHED,
        defaults={"head_dim": 128},
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Sizes of attention."""

    query: int
    kv: int
    dim: int

    @classmethod
    def read(cls, fields: Fields) -> Heads:
        """From the usual fields. Raises UnknownArchitecture."""
        query = fields.number("num_attention_heads")
        kv = fields.get("num_key_value_heads")
        kv = query if kv is None else int(kv)
        dim = fields.get("head_dim")
        if dim is None:
            hidden = fields.number("hidden_size")
            if hidden % query:
                raise fields.refused(
                    f"head_dim is missing and {query} heads do not divide {hidden}"
                )
            dim = hidden // query
        return cls(query=query, kv=kv, dim=int(dim))


def build(fields: Fields) -> tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]:
    """Layers and weights. Raises UnknownArchitecture."""
    traits = FAMILIES[fields.model_type]
    heads = Heads.read(fields)
    parts = Parts()
    hidden, layers = fields.number("hidden_size"), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    add_attention(parts, fields, traits, heads, copies=layers)
    _add_mlp(parts, fields, traits, hidden, layers)
    add_norms(parts, fields, traits, layers)
    add_head(parts, fields, bias=traits.head_bias)
    return attention_layers(fields, traits, heads), parts.all()


def attention_layers(fields: Fields, traits: Traits, heads: Heads) -> tuple[LayerSpec, ...]:
    """One for each layer, of equal heads."""
    return tuple(
        LayerSpec(
            kind=reach.kind,
            window=reach.window,
            q_heads=heads.query,
            kv_heads=heads.kv,
            key_dim=heads.dim,
            value_dim=heads.dim,
        )
        for reach in reaches(fields, traits.windows)
    )


def add_embedding(parts: Parts, fields: Fields) -> None:
    """The table of token embeddings."""
    size = fields.number("vocab_size"), fields.number("hidden_size")
    parts.numbers("embed_tokens.weight", Component.EMBEDDING, *size, copies=1)


def add_head(parts: Parts, fields: Fields, *, bias: bool = False) -> None:
    """The output head, where it is not the embedding."""
    vocab, hidden = fields.number("vocab_size"), fields.number("hidden_size")
    if not fields.flag("tie_word_embeddings", False):
        parts.matrix("lm_head", Component.HEAD, vocab, hidden, copies=1, bias=bias)
    elif bias:
        parts.numbers("lm_head.bias", Component.HEAD, vocab, copies=1)


def add_attention(
    parts: Parts, fields: Fields, traits: Traits, heads: Heads, *, copies: int
) -> None:
    """Projections of queries, keys, values and the output, and norms of the first two."""
    hidden, kind = fields.number("hidden_size"), Component.ATTENTION
    bias = _chosen(fields, traits.qkv_bias)
    for name, count in (("q", heads.query), ("k", heads.kv), ("v", heads.kv)):
        parts.matrix(
            f"self_attn.{name}_proj", kind, count * heads.dim, hidden, copies=copies, bias=bias
        )
    width = heads.query * heads.dim
    out_bias = _chosen(fields, traits.out_bias)
    parts.matrix("self_attn.o_proj", kind, hidden, width, copies=copies, bias=out_bias)
    for name, count in (("q", heads.query), ("k", heads.kv)):
        if traits.qk_norm is not QKNorm.NONE:
            size = heads.dim * (count if traits.qk_norm is QKNorm.FULL else 1)
            parts.numbers(f"self_attn.{name}_norm.weight", Component.NORMS, size, copies=copies)


def _add_mlp(parts: Parts, fields: Fields, traits: Traits, hidden: int, layers: int) -> None:
    width, bias = fields.number("intermediate_size"), _chosen(fields, traits.mlp_bias)
    add_feed_forward(parts, "mlp", hidden, width, gated=traits.gated, bias=bias, copies=layers)


def add_feed_forward(
    parts: Parts,
    name: str,
    hidden: int,
    width: int,
    *,
    copies: int,
    gated: bool = True,
    bias: bool = False,
    component: Component = Component.MLP,
    active: int | None = None,
) -> None:
    """Gate, up and down (or up and down) projections."""
    for part in ("gate_proj", "up_proj") if gated else ("up_proj",):
        parts.matrix(
            f"{name}.{part}", component, width, hidden, copies=copies, active=active, bias=bias
        )
    parts.matrix(
        f"{name}.down_proj", component, hidden, width, copies=copies, active=active, bias=bias
    )


def add_norms(parts: Parts, fields: Fields, traits: Traits, layers: int) -> None:
    """Norms of the layers, and the last one."""
    hidden = fields.number("hidden_size")
    names = ["weight", "bias"] if _chosen(fields, traits.norm_bias) else ["weight"]
    for name in names:
        parts.numbers(f"norms.{name}", Component.NORMS, hidden, copies=traits.norms * layers)
        if traits.final_norm:
            parts.numbers(f"norm.{name}", Component.NORMS, hidden, copies=1)
