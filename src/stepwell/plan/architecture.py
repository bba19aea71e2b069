"""A model as the planner sees it: what its layers keep of the past, and every weight's shape.

Owns the nouns. Who fills them: `read.py` from a configuration, through `families`; what is computed
from them: `memory.py`, `roofline.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class AttentionKind(StrEnum):
    """What one layer's attention keeps of the past."""

    FULL = "full"  # K and V of every token
    SLIDING = "sliding"  # of the last `window` tokens
    CHUNKED = "chunked"  # of the tokens since the last multiple of `window`
    LATENT = "latent"  # one latent and one rotary key for every token (MLA)
    NONE = "none"  # nothing that grows: a state of fixed size, another layer's K and V, or no past


class Component(StrEnum):
    """What a weight belongs to."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    STATE = "state"  # Mamba, linear attention and other mixers with a state
    MLP = "mlp"
    EXPERTS = "experts"
    NORMS = "norms"
    HEAD = "head"
    OTHER = "other"


class WeightPrecision(StrEnum):
    """How a weight is stored."""

    FP32 = "fp32"
    BF16 = "bf16"  # or float16: the same bytes
    FP8 = "fp8"  # one scale a matrix, which is not counted
    INT8 = "int8"  # groups of 128 along a row share a float16 scale (kernels/linear)
    INT4 = "int4"  # groups of 64
    NF4 = "nf4"  # groups of 64
    MXFP4 = "mxfp4"  # groups of 32 share an 8-bit exponent (OCP MX)


class KVPrecision(StrEnum):
    """How K and V are stored."""

    MODEL = "model"  # the precision that the model computes in
    FP8 = "fp8"  # one scale a layer, which is not counted
    INT8 = "int8"  # as our pool packs it, scales counted
    INT4 = "int4"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """What a layer keeps of a sequence whatever its length: the last `kernel` inputs of a
    convolution over `channels`, and `held` numbers. `held_bytes`: of each as the configuration
    names it, 0 where it says nothing."""

    channels: int
    kernel: int
    held: int = 0
    held_bytes: int = 0

    def nbytes(self, *, dtype_bytes: int) -> int:
        """As transformers keeps it: the convolution in the model's dtype, the rest in float32."""
        return self.channels * self.kernel * dtype_bytes + self.held * (self.held_bytes or 4)

    def vllm_bytes(self, *, dtype_bytes: int) -> int:
        """As vLLM 0.33 keeps it: one input less, all in the model's dtype unless named."""
        past = self.channels * (self.kernel - 1)
        return past * dtype_bytes + self.held * (self.held_bytes or dtype_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer. `window`: tokens, of SLIDING and CHUNKED. LATENT keeps `latent + rope` numbers a
    token, other kinds `kv_heads * (key_dim + value_dim)`. `key_dim`, `value_dim` and `kv_heads` of
    a LATENT layer are those of K and V expanded, which engines without MLA keep. A layer may have
    attention and a `state`."""

    kind: AttentionKind
    q_heads: int = 0
    kv_heads: int = 0
    key_dim: int = 0
    value_dim: int = 0
    window: int = 0
    latent: int = 0
    rope: int = 0
    state: StateSpec | None = None

    @property
    def rows(self) -> tuple[tuple[int, int], ...]:
        """(count, numbers of each) of the rows that one remembered token takes."""
        if self.kind is AttentionKind.NONE:
            return ()
        if self.kind is AttentionKind.LATENT:
            return ((1, self.latent + self.rope),)
        return self.expanded_rows

    @property
    def expanded_rows(self) -> tuple[tuple[int, int], ...]:
        """The same with K and V of every head written out."""
        return ((self.kv_heads, self.key_dim), (self.kv_heads, self.value_dim))

    @property
    def numbers_per_token(self) -> int:
        """Numbers that one remembered token takes."""
        return sum(count * size for count, size in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPart:
    """Equal tensors: `copies` of one shape (layers, and experts of each). `active`: how many of the
    copies one token passes through. `linear`: a matrix [out, in] that quantizers take; the head's
    `tied` one is the embedding's, with no bytes of its own. `precision`: what it is stored in
    whatever the rest is, None for the model's."""

    name: str
    component: Component
    shape: tuple[int, ...]
    copies: int = 1
    active: int | None = None
    linear: bool = False
    stacked: bool = False
    precision: WeightPrecision | None = None

    @property
    def parameters(self) -> int:
        """Of all copies."""
        return math.prod(self.shape) * self.copies

    @property
    def active_parameters(self) -> int:
        """Of the copies that one token passes through."""
        return math.prod(self.shape) * (self.copies if self.active is None else self.active)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model. `dtype_bytes`: of a number it computes with. `max_positions`: tokens. `tied`: head
    and embedding are one matrix, held once and counted as the embedding. `stored_bytes`: of the
    checkpoint's tensors where their header was read. `path`: what a server is told to load.
    `native`: how the published checkpoint stores the linear weights. `notes`: what the reader must
    know, such as parts not counted."""

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    layers: tuple[LayerSpec, ...]
    weights: tuple[WeightPart, ...]
    tied: bool
    source: str
    path: str = ""
    dtype_bytes: int = 2
    native: WeightPrecision = WeightPrecision.BF16
    stored_bytes: int | None = None
    notes: tuple[str, ...] = ()
    kinds: tuple[tuple[LayerSpec, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        """`kinds`: each different layer, and how many of it there are."""
        object.__setattr__(self, "kinds", tuple(Counter(self.layers).items()))

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        return sum(part.parameters for part in self.weights)

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through, the embedding's table counted whole."""
        return sum(part.active_parameters for part in self.weights)
