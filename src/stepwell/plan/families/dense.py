"""Decoders of attention and one feed-forward part in every layer: Llama and its many relatives."""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.plan.architecture import LayerSpec, WeightPart
from stepwell.plan.families.pieces import (
    add_attention,
    add_embedding,
    add_feed_forward,
    add_head,
    add_norms,
    attention_layers,
)
from stepwell.plan.families.traits import Heads, QKNorm, Traits, chosen
from stepwell.plan.families.windows import WindowRule
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts

_LLAMA = Traits(qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias")

FAMILIES: Mapping[str, Traits] = {
    "arcee": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", mlp_bias="mlp_bias", gated=False
    ),
    "cohere": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.WIDTH,
        qk_norm_if="use_qk_norm", norms=1,
    ),
    "cohere2": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", norms=1,
        windows=WindowRule.PATTERN, pattern=4,
    ),
    "ernie4_5": Traits(qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias"),
    "exaone4": Traits(qk_norm=QKNorm.HEAD, windows=WindowRule.PATTERN),
    "gemma": Traits(qkv_bias="attention_bias", out_bias="attention_bias"),
    "gemma2": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", norms=4,
        windows=WindowRule.PATTERN, pattern=2,
    ),
    "gemma3_text": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", norms=4, qk_norm=QKNorm.HEAD,
        windows=WindowRule.PATTERN, pattern=6,
    ),
    "glm": Traits(qkv_bias="attention_bias", fused_gate=True),
    "glm4": Traits(qkv_bias="attention_bias", fused_gate=True, norms=4),
    "granite": _LLAMA,
    "hunyuan_v1_dense": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.HEAD
    ),
    "llama": _LLAMA,
    "ministral": Traits(windows=WindowRule.ALL),
    "ministral3": Traits(windows=WindowRule.ALL),
    "mistral": Traits(windows=WindowRule.ALL),
    "olmo": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", norms=0, final_norm=False
    ),
    "olmo2": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.WIDTH
    ),
    "olmo3": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.WIDTH,
        windows=WindowRule.PATTERN, pattern=4,
    ),
    "phi": Traits(
        qkv_bias=True, out_bias=True, mlp_bias=True, gated=False, norms=1, norm_bias=True,
        head_bias=True,
    ),
    "phi3": Traits(fused_qkv=True, fused_gate=True, windows=WindowRule.ALL),
    "qwen2": Traits(qkv_bias=True, windows=WindowRule.SWITCHED),
    "qwen3": Traits(
        qkv_bias="attention_bias", out_bias="attention_bias", qk_norm=QKNorm.HEAD,
        windows=WindowRule.SWITCHED,
    ),
    "seed_oss": Traits(
        qkv_bias="attention_bias", out_bias="attention_out_bias", mlp_bias="mlp_bias"
    ),
    "smollm3": _LLAMA,
    "starcoder2": Traits(
        qkv_bias="use_bias", out_bias="use_bias", mlp_bias="use_bias", gated=False,
        norm_bias=True, windows=WindowRule.ALL,
    ),
}  # fmt: skip


def build(fields: Fields) -> tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]:
    """Layers and weights. Raises UnknownArchitecture."""
    traits = FAMILIES[fields.model_type]
    heads = Heads.read(fields)
    parts = Parts()
    hidden, layers = fields.number("hidden_size"), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    add_attention(parts, fields, traits, heads, copies=layers)
    add_feed_forward(
        parts,
        "mlp",
        hidden,
        fields.number("intermediate_size"),
        copies=layers,
        gated=traits.gated,
        fused=traits.fused_gate,
        bias=chosen(fields, traits.mlp_bias),
    )
    add_norms(parts, fields, traits, layers)
    add_head(parts, fields, bias=traits.head_bias)
    return attention_layers(fields, traits, heads), parts.all()
