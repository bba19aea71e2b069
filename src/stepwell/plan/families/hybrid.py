"""Models of which some or all layers keep a state instead of K and V."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from stepwell.plan.architecture import AttentionKind, LayerSpec, StateSpec, WeightPart
from stepwell.plan.families.mixers import (
    Mamba2Sizes,
    add_delta,
    add_mamba,
    add_mamba2,
    add_short_convolution,
)
from stepwell.plan.families.pieces import (
    add_attention,
    add_embedding,
    add_feed_forward,
    add_head,
    add_norms,
    attention_layer,
)
from stepwell.plan.families.routed import (
    EXPERT_COUNT,
    Placement,
    Routing,
    Shared,
    add_routed,
    expert_layers,
)
from stepwell.plan.families.traits import Heads, QKNorm, Traits
from stepwell.plan.families.windows import Reach
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts

Built = tuple[tuple[LayerSpec, ...], tuple[WeightPart, ...]]
_ATTENTION = frozenset({"full_attention", "attention"})
_STATE = frozenset({"linear_attention", "mamba", "conv"})
_PLAIN = Traits(qkv_bias="attention_bias", out_bias="attention_bias")
_GATED = Traits(
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    qk_norm=QKNorm.HEAD,
    output_gate=True,
)
_QWEN_EXPERTS = Routing(shared=Shared.GATED, placement=Placement.ALL)


def _is_attention(fields: Fields, types: object) -> list[bool]:
    """Of every layer. Raises UnknownArchitecture for other kinds of layers."""
    count = fields.number("num_hidden_layers")
    if not isinstance(types, list) or len(types) != count:
        raise fields.refused(f"the kinds of its {count} layers are not named")
    for name in types:
        if name not in _ATTENTION | _STATE:
            raise fields.refused(f"layers of kind {name!r} are not known here")
    return [name in _ATTENTION for name in types]


def _every(fields: Fields, name: str, default: int) -> list[str]:
    """Attention in every n-th layer, a state in the others."""
    every = int(fields.get(name) or default)
    layers = range(fields.number("num_hidden_layers"))
    return ["linear_attention" if (i + 1) % every else "full_attention" for i in layers]


def _mixed(
    parts: Parts,
    fields: Fields,
    traits: Traits,
    attends: list[bool],
    add_state: Callable[[int], StateSpec],
) -> tuple[LayerSpec, ...]:
    """Adds both kinds of layers' mixers."""
    heads = Heads.read(fields)
    full = sum(attends)
    add_attention(parts, fields, traits, heads, copies=full)
    state = add_state(len(attends) - full) if full < len(attends) else None
    attention = attention_layer(Reach(AttentionKind.FULL), heads)
    recurrent = LayerSpec(kind=AttentionKind.NONE, state=state)
    return tuple(attention if attends_here else recurrent for attends_here in attends)


def _finish(parts: Parts, fields: Fields, layers: tuple[LayerSpec, ...], norms: int = 2) -> Built:
    add_norms(parts, fields, Traits(norms=norms), len(layers))
    add_head(parts, fields)
    return layers, parts.all()


def _dense_mlp(parts: Parts, fields: Fields, copies: int, *, width: int = 0) -> None:
    hidden = fields.number("hidden_size")
    inner = width or fields.number("intermediate_size")
    add_feed_forward(
        parts, "mlp", hidden, inner, copies=copies, bias=fields.flag("mlp_bias", False)
    )


def _delta(fields: Fields, *, is_joined: bool, routing: Routing | None) -> Built:
    parts = Parts()
    add_embedding(parts, fields)
    types = fields.get("layer_types") or _every(fields, "full_attention_interval", 4)
    attends = _is_attention(fields, types)

    def add_state(copies: int) -> StateSpec:
        return add_delta(parts, fields, copies=copies, is_joined=is_joined)

    layers = _mixed(parts, fields, _GATED, attends, add_state)
    if routing is None:
        _dense_mlp(parts, fields, len(layers))
    else:
        add_routed(parts, fields, routing)
    return _finish(parts, fields, layers)


def _qwen3_next(fields: Fields) -> Built:
    routing = Routing(shared=Shared.GATED, placement=Placement.SPARSE_STEP)
    return _delta(fields, is_joined=True, routing=routing)


def _qwen3_5(fields: Fields) -> Built:
    return _delta(fields, is_joined=False, routing=None)


def _qwen3_5_moe(fields: Fields) -> Built:
    return _delta(fields, is_joined=False, routing=_QWEN_EXPERTS)


def _mamba(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    state = add_mamba(parts, fields, copies=count, prefix="")
    layers = (LayerSpec(kind=AttentionKind.NONE, state=state),) * count
    return _finish(parts, fields, layers, norms=1)


def _mamba2(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    bias = fields.flag("use_bias", False)
    sizes = Mamba2Sizes(
        heads=fields.number("num_heads"),
        head_dim=fields.number("head_dim"),
        groups=fields.number("n_groups"),
        state=fields.number("state_size"),
        kernel=fields.number("conv_kernel"),
        in_bias=bias,
        out_bias=bias,
        prefix="",
    )
    state = add_mamba2(parts, fields, sizes, copies=count)
    layers = (LayerSpec(kind=AttentionKind.NONE, state=state),) * count
    return _finish(parts, fields, layers, norms=1)


def _jamba(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    period, offset = (fields.number(f"attn_layer_{name}") for name in ("period", "offset"))
    attends = [i % period == offset for i in range(count)]

    def add_state(copies: int) -> StateSpec:
        return add_mamba(parts, fields, copies=copies, prefix="mamba_")

    layers = _mixed(parts, fields, Traits(), attends, add_state)
    has_experts = fields.number(*EXPERT_COUNT) > 1
    if has_experts and expert_layers(fields, Placement.PERIOD):
        routing = Routing(width="intermediate_size", placement=Placement.PERIOD)
        add_routed(parts, fields, routing)
    else:
        _dense_mlp(parts, fields, count)
    return _finish(parts, fields, layers)


def _mamba2_sizes(fields: Fields, *, inner: int, normed: bool, out_bias: bool) -> Mamba2Sizes:
    heads = fields.number("mamba_n_heads")
    if inner % heads:
        raise fields.refused(f"{heads} heads do not divide {inner}")
    return Mamba2Sizes(
        heads=heads,
        head_dim=inner // heads,
        groups=fields.number("mamba_n_groups"),
        state=fields.number("mamba_d_state"),
        kernel=fields.number("mamba_d_conv"),
        in_bias=fields.flag("mamba_proj_bias", False),
        out_bias=out_bias,
        prefix="mamba_",
        normed=normed,
    )


def _expanded(fields: Fields) -> int:
    return int(fields.get("mamba_expand") * fields.number("hidden_size"))


def _bamba_mixers(parts: Parts, fields: Fields, attends: list[bool]) -> tuple[LayerSpec, ...]:
    bias = fields.flag("mamba_proj_bias", False)
    sizes = _mamba2_sizes(fields, inner=_expanded(fields), normed=True, out_bias=bias)

    def add_state(copies: int) -> StateSpec:
        return add_mamba2(parts, fields, sizes, copies=copies)

    return _mixed(parts, fields, _PLAIN, attends, add_state)


def _bamba(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    full = set(fields.get("attn_layer_indices") or ())
    layers = _bamba_mixers(parts, fields, [i in full for i in range(count)])
    _dense_mlp(parts, fields, count)
    return _finish(parts, fields, layers)


def _granite_hybrid(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    types = fields.get("layer_types") or fields.get("layers_block_type") or ["mamba"] * count
    layers = _bamba_mixers(parts, fields, _is_attention(fields, types))
    if fields.number(*EXPERT_COUNT):
        add_routed(parts, fields, Routing(width="intermediate_size", shared=Shared.WIDE))
    else:
        _dense_mlp(parts, fields, count, width=fields.number("shared_intermediate_size"))
    return _finish(parts, fields, layers)


def _falcon_h1(fields: Fields) -> Built:
    """Attention and Mamba-2 side by side in every layer."""
    parts, count, heads = Parts(), fields.number("num_hidden_layers"), Heads.read(fields)
    add_embedding(parts, fields)
    add_attention(parts, fields, _PLAIN, heads, copies=count)
    sizes = _mamba2_sizes(
        fields,
        inner=int(fields.get("mamba_d_ssm") or _expanded(fields)),
        normed=fields.flag("mamba_rms_norm", False),
        out_bias=fields.flag("projectors_bias", False),
    )
    state = add_mamba2(parts, fields, sizes, copies=count)
    _dense_mlp(parts, fields, count)
    layer = attention_layer(Reach(AttentionKind.FULL), heads, state=state)
    return _finish(parts, fields, (layer,) * count)


def _lfm2(fields: Fields) -> Built:
    parts, count = Parts(), fields.number("num_hidden_layers")
    add_embedding(parts, fields)
    types = fields.get("layer_types")
    if types is None:
        full = set(fields.get("full_attn_idxs") or range(count))
        types = ["full_attention" if i in full else "conv" for i in range(count)]

    def add_state(copies: int) -> StateSpec:
        return add_short_convolution(parts, fields, copies=copies)

    traits = Traits(qk_norm=QKNorm.HEAD)
    layers = _mixed(parts, fields, traits, _is_attention(fields, types), add_state)
    width = fields.number("block_ff_dim", "intermediate_size")
    if fields.flag("block_auto_adjust_ff_dim", True):
        multiple = fields.number("block_multiple_of")
        width = int(fields.get("block_ffn_dim_multiplier", 1.0) * (2 * width // 3))
        width = -(-width // multiple) * multiple
    _dense_mlp(parts, fields, count, width=width)
    return _finish(parts, fields, layers)


FAMILIES: Mapping[str, Callable[[Fields], Built]] = {
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "falcon_mamba": _mamba,
    "granitemoehybrid": _granite_hybrid,
    "jamba": _jamba,
    "lfm2": _lfm2,
    "mamba": _mamba,
    "mamba2": _mamba2,
    "qwen3_5_moe_text": _qwen3_5_moe,
    "qwen3_5_text": _qwen3_5,
    "qwen3_next": _qwen3_next,
}


def build(fields: Fields) -> Built:
    """Layers and weights. Raises UnknownArchitecture."""
    return FAMILIES[fields.model_type](fields)
