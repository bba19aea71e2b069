"""Layers that keep a state of fixed size instead of K and V: Mamba, Mamba-2, gated delta rule,
short convolutions. Each function adds the weights and returns the state.

    Mamba    (arXiv:2312.00752)   convolution [inner, kernel], state [inner, state size]
    Mamba-2  (arXiv:2405.21060)   convolution [inner + 2 groups * state, kernel],
                                  state [heads, head size, state size]
    delta    (arXiv:2412.06464)   convolution [2 keys + values, kernel],
                                  state [value heads, key size, value size]

`StateSpec` says in which precisions engines keep them.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.plan.architecture import Component, StateSpec
from stepwell.plan.fields import Fields
from stepwell.plan.parts import Parts

_KIND = Component.STATE


def add_mamba(parts: Parts, fields: Fields, *, copies: int, prefix: str) -> StateSpec:
    """Mamba. `prefix`: what the names of its fields begin with in mixed models."""
    hidden = fields.number("hidden_size")
    inner = int(fields.get("mamba_expand" if prefix else "expand")) * hidden
    kernel = fields.number("mamba_d_conv" if prefix else "conv_kernel")
    size = fields.number("mamba_d_state" if prefix else "state_size")
    rank = fields.get("mamba_dt_rank" if prefix else "time_step_rank")
    rank = -(-hidden // 16) if rank in (None, "auto") else int(rank)
    bias = fields.flag("mamba_proj_bias" if prefix else "use_bias", False)
    parts.matrix("mixer.in_proj", _KIND, 2 * inner, hidden, copies=copies, bias=bias)
    _add_convolution(parts, fields, inner, kernel, copies, prefix)
    parts.matrix("mixer.x_proj", _KIND, rank + 2 * size, inner, copies=copies)
    parts.matrix("mixer.dt_proj", _KIND, inner, rank, copies=copies, bias=True)
    parts.numbers("mixer.A_log", _KIND, inner, size, copies=copies)
    parts.numbers("mixer.D", _KIND, inner, copies=copies)
    parts.matrix("mixer.out_proj", _KIND, hidden, inner, copies=copies, bias=bias)
    if prefix:  # Jamba's norms of what the state is computed from
        for name, width in (("dt", rank), ("b", size), ("c", size)):
            parts.numbers(f"mixer.{name}_layernorm.weight", _KIND, width, copies=copies)
    return _state(fields, inner, kernel, inner * size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Sizes:
    """Sizes of Mamba-2, which every model names differently."""

    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int
    in_bias: bool
    out_bias: bool
    prefix: str
    normed: bool = True

    @property
    def inner(self) -> int:
        """Numbers of all heads."""
        return self.heads * self.head_dim


def add_mamba2(parts: Parts, fields: Fields, sizes: Mamba2Sizes, *, copies: int) -> StateSpec:
    """Mamba-2."""
    hidden, inner = fields.number("hidden_size"), sizes.inner
    mixed = inner + 2 * sizes.groups * sizes.state
    rows = inner + mixed + sizes.heads
    parts.matrix("mixer.in_proj", _KIND, rows, hidden, copies=copies, bias=sizes.in_bias)
    _add_convolution(parts, fields, mixed, sizes.kernel, copies, sizes.prefix)
    for name in ("dt_bias", "A_log", "D"):
        parts.numbers(f"mixer.{name}", _KIND, sizes.heads, copies=copies)
    if sizes.normed:
        parts.numbers("mixer.norm.weight", _KIND, inner, copies=copies)
    parts.matrix("mixer.out_proj", _KIND, hidden, inner, copies=copies, bias=sizes.out_bias)
    held = inner * sizes.state
    return _state(fields, mixed, sizes.kernel, held)


def _state(fields: Fields, channels: int, kernel: int, held: int) -> StateSpec:
    named = fields.get("mamba_ssm_dtype") or fields.get("mamba_ssm_cache_dtype")
    size = {"float32": 4, "bfloat16": 2, "float16": 2}.get(str(named), 0)
    return StateSpec(channels=channels, kernel=kernel, held=held, held_bytes=size)


def _add_convolution(
    parts: Parts, fields: Fields, width: int, kernel: int, copies: int, prefix: str
) -> None:
    parts.numbers("mixer.conv1d.weight", _KIND, width, 1, kernel, copies=copies)
    if fields.flag("mamba_conv_bias" if prefix else "use_conv_bias", True):
        parts.numbers("mixer.conv1d.bias", _KIND, width, copies=copies)


def add_delta(parts: Parts, fields: Fields, *, copies: int, is_joined: bool) -> StateSpec:
    """Gated delta rule. `is_joined`: queries, keys, values and gate are one projection."""
    hidden = fields.number("hidden_size")
    key_heads, value_heads = (fields.number(f"linear_num_{n}_heads") for n in ("key", "value"))
    key_dim, value_dim = (fields.number(f"linear_{n}_head_dim") for n in ("key", "value"))
    kernel = fields.number("linear_conv_kernel_dim")
    keys, values = key_heads * key_dim, value_heads * value_dim
    mixed = 2 * keys + values
    if is_joined:
        rows = {"in_proj_qkvz": mixed + values, "in_proj_ba": 2 * value_heads}
    else:
        rows = {"in_proj_qkv": mixed, "in_proj_z": values}
        rows |= {"in_proj_b": value_heads, "in_proj_a": value_heads}
    for name, count in rows.items():
        parts.matrix(f"linear_attn.{name}", _KIND, count, hidden, copies=copies)
    parts.numbers("linear_attn.conv1d.weight", _KIND, mixed, 1, kernel, copies=copies)
    for name in ("dt_bias", "A_log"):
        parts.numbers(f"linear_attn.{name}", _KIND, value_heads, copies=copies)
    parts.numbers("linear_attn.norm.weight", _KIND, value_dim, copies=copies)
    parts.matrix("linear_attn.out_proj", _KIND, hidden, values, copies=copies)
    held = value_heads * key_dim * value_dim
    return _state(fields, mixed, kernel, held)


def add_short_convolution(parts: Parts, fields: Fields, *, copies: int) -> StateSpec:
    """LFM2's gated convolution over the last few tokens."""
    hidden, kernel = fields.number("hidden_size"), fields.number("conv_L_cache")
    bias = fields.flag("conv_bias", False)
    parts.matrix("conv.in_proj", _KIND, 3 * hidden, hidden, copies=copies, bias=bias)
    parts.numbers("conv.conv.weight", _KIND, hidden, 1, kernel, copies=copies)
    if bias:
        parts.numbers("conv.conv.bias", _KIND, hidden, copies=copies)
    parts.matrix("conv.out_proj", _KIND, hidden, hidden, copies=copies, bias=bias)
    return _state(fields, hidden, kernel, 0)
