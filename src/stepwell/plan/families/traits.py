"""What sets one kind of decoder apart from another, and the sizes of its attention."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepwell.plan.families.windows import WindowRule
from stepwell.plan.fields import Fields

Choice = bool | str  # a string names the configuration's field that decides


class QKNorm(StrEnum):
    """Norms of queries and keys."""

    NONE = "none"
    HEAD = "one weight of head_dim for all heads"
    WIDTH = "one weight over all heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """`norms`: weights of hidden_size in a layer. `fused_*`: projections that are one matrix."""

    qkv_bias: Choice = False
    out_bias: Choice = False
    mlp_bias: Choice = False
    qk_norm: QKNorm = QKNorm.NONE
    qk_norm_if: str = ""  # the field that switches qk_norm on; empty: always
    gated: bool = True
    fused_qkv: bool = False
    fused_gate: bool = False
    output_gate: bool = False  # the query projection makes a gate beside the queries
    norms: int = 2
    norm_bias: Choice = False
    final_norm: bool = True
    head_bias: bool = False
    windows: WindowRule = WindowRule.NONE
    pattern: int | None = None  # every n-th layer is a full one


def chosen(fields: Fields, choice: Choice) -> bool:
    """A choice, with the configuration's field read."""
    return choice if isinstance(choice, bool) else fields.flag(choice, False)


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
        kv = fields.optional("num_key_value_heads")
        dim = fields.optional("head_dim")
        if dim is None:
            hidden = fields.number("hidden_size")
            if not query or hidden % query:
                raise fields.refused(f"no head_dim, and {query} heads do not divide {hidden}")
            dim = hidden // query
        return cls(query=query, kv=query if kv is None else kv, dim=dim)
