"""Resident memory of our own engine on a CPU, before it is started.

    weights      panels, a tied head's second copy, biases        stepwell_rounding, to the byte
    kv_pool      whole blocks, as engine/resolve.py sizes it      to the byte
    workspace    step buffers; rows between fused kernels         to the byte
    host_tier    as asked for
    steps        what a step of transformers' own layers leaves   an upper estimate
    tokenizer    by entries of the vocabulary                     measured: two tokenizers
    kernels, interpreter, libraries                               measured: `MEASURED_WITH`

The last three are what importing and loading takes whatever the model; they differ between
versions, and by what pages of libraries the system maps. `docs/memory-account.md` holds all of it
against an engine's own account. Low-bit weights hold a bfloat16 embedding. Not covered: CUDA, lower
tiers but the host's, codecs, weights that stream, kernels compiled in this very start (some 60 MiB
more), whatever serving adds later.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.plan import stepwell_rounding
from stepwell.plan.architecture import (
    AttentionKind,
    Component,
    KVPrecision,
    LayerSpec,
    ModelSpec,
    WeightPrecision,
)
from stepwell.plan.weights import group_of

MEASURED_WITH = "Python 3.11, torch 2.13.0+cpu, transformers 5.23.0, numba 0.68.1, x86-64 Linux"
_MIB = 1 << 20
_LIBRARIES = 174 * _MIB
_INTERPRETER = 165 * _MIB
_KERNELS = 37 * _MIB
_SERVER = 16 * _MIB  # uvicorn, metrics, chat templates: over libraries and interpreter
_BASE = 5 * _MIB  # caches and fragments, whatever the model
_LAYER = 350_000  # objects of a layer, and its share of programs and caches
_TOKENIZER, _TOKENIZER_ENTRY = 850_000, 370
_POOL_SHARE = 0.5  # of what is left beside the weights (engine/resolve.py)

# Model types whose layers run as one program of kernels (model/fused/recognize.py).
FUSED_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_LEAST_ROWS = 16
_TURN_ROWS = 4096  # a table of rotary embeddings grows by so many positions
_DECODE_ROWS, _STEPS_AHEAD, _ARGMAX_PIECE = 64, 8, 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine is started with; the defaults are the settings' own. `pool`: bytes, None for
    "auto", which needs `available`: bytes free before the start. `max_model_len` 0: the model's."""

    weights: WeightPrecision = WeightPrecision.BF16
    kv: KVPrecision = KVPrecision.MODEL
    pool: int | None = None
    available: int = 0
    host_tier: int = 0
    max_model_len: int = 0
    max_step_tokens: int = 512
    max_sequences: int = 64
    block_tokens: int = stepwell_rounding.BLOCK_TOKENS
    serves: bool = False
    has_tokenizer: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """Bytes resident after the start."""

    weights: int
    kv_pool: int
    workspace: int
    host_tier: int
    steps: int
    tokenizer: int
    kernels: int
    interpreter: int
    libraries: int

    @property
    def total(self) -> int:
        """Of the process."""
        return sum(asdict(self).values())


def engine_memory(spec: ModelSpec, settings: EngineSettings) -> EngineMemory:
    """Of a start on a CPU. Raises UnsupportedArchitecture for what our engine does not serve."""
    reason = stepwell_rounding.refusal(spec, settings.kv)
    if reason is not None:
        raise UnsupportedArchitecture(f"our engine does not keep this: {reason}.", hint="")
    beside = {
        "weights": stepwell_rounding.weight_bytes(spec, settings.weights) + _rotary(spec),
        "workspace": _workspace(spec, settings),
        "host_tier": settings.host_tier,
        "steps": _steps(spec, settings),
        "tokenizer": settings.has_tokenizer * (_TOKENIZER + _TOKENIZER_ENTRY * spec.vocab_size),
        "kernels": _KERNELS,
        "interpreter": _INTERPRETER + (_SERVER if settings.serves else 0),
        "libraries": _LIBRARIES,
    }
    return EngineMemory(kv_pool=_pool(spec, settings, sum(beside.values())), **beside)


def is_fused(spec: ModelSpec) -> bool:
    """Whether all layers run as one program of kernels."""
    return spec.model_type in FUSED_TYPES and spec.dtype_bytes == 2


def _rotary(spec: ModelSpec) -> int:
    """Two tables of frequencies, float32."""
    dims = [layer.key_dim for layer in spec.layers if layer.key_dim]
    return 2 * 4 * (dims[0] // 2) if dims else 0


def _length(spec: ModelSpec, settings: EngineSettings) -> int:
    return settings.max_model_len or spec.max_positions or 2048


def _pool(spec: ModelSpec, settings: EngineSettings, beside: int) -> int:
    """`beside`: bytes of everything else, of which the host tier comes after the pool."""
    block = stepwell_rounding.block_bytes(spec, settings.kv, block_tokens=settings.block_tokens)
    if settings.pool is not None:
        return settings.pool // block * block
    useful = -(-_length(spec, settings) // settings.block_tokens) * settings.max_sequences
    left = settings.available - (beside - settings.host_tier)
    return max(0, min(useful, int(left * _POOL_SHARE) // block)) * block


def _workspace(spec: ModelSpec, settings: EngineSettings) -> int:
    """engine/runner.py, model/fused/workspace.py and ends.py."""
    tokens = max(settings.max_step_tokens, settings.max_sequences)
    blocks = -(-_length(spec, settings) // settings.block_tokens)
    sequences = settings.max_sequences
    tables = 2 * 4 * sequences * blocks
    rows = 3 * 8 * tokens + 4 * (sequences + 1) + 4 * sequences
    return tables + rows + (_fused_rows(spec, settings, tokens) if is_fused(spec) else 0)


def _fused_rows(spec: ModelSpec, settings: EngineSettings, tokens: int) -> int:
    capacity = max(_LEAST_ROWS, 1 << (tokens - 1).bit_length())
    layer, hidden, inner = spec.layers[0], spec.hidden_size, _inner(spec)
    queries, keys = layer.q_heads * layer.key_dim, layer.kv_heads * layer.key_dim
    widths = 3 * hidden + 2 * queries + 2 * keys + 2 * inner + 2 * layer.key_dim
    total = 2 * capacity * widths
    if settings.weights is WeightPrecision.INT8:
        for columns in {hidden, queries, inner}:
            group = group_of(columns, WeightPrecision.INT8)
            total += capacity * (columns + 8 * (columns // group if group else 0))
    turns = -(-(tokens + 8) // _TURN_ROWS) * _TURN_ROWS
    return total + 2 * 2 * turns * layer.key_dim + _decode_rows(spec, settings)


def _decode_rows(spec: ModelSpec, settings: EngineSettings) -> int:
    """model/fused/ends.py: tokens, positions, choices, pieces of argmax, logits."""
    if spec.vocab_size % 16:
        return 0  # such a head is no part of a program
    pieces = -(-spec.vocab_size // _ARGMAX_PIECE)
    columns = -(-spec.vocab_size // stepwell_rounding.UNIT_ROWS) * stepwell_rounding.UNIT_ROWS
    a_sequence = 8 * (2 + _STEPS_AHEAD + pieces) + 2 * columns
    return min(settings.max_sequences, _DECODE_ROWS) * a_sequence


def _inner(spec: ModelSpec) -> int:
    """Width of the widest MLP between its matrices."""
    wide = [
        part.shape[0]
        for part in spec.weights
        if part.component is Component.MLP and part.linear and part.shape[-1] == spec.hidden_size
    ]
    return max(wide, default=4 * spec.hidden_size)


def _steps(spec: ModelSpec, settings: EngineSettings) -> int:
    """What malloc keeps of the buffers of the largest step: a few rows of logits, and without
    fused layers the intermediate results of one."""
    size, tokens = spec.dtype_bytes, settings.max_step_tokens
    least = _BASE + _LAYER * len(spec.layers)
    if is_fused(spec):
        return least + 2 * size * tokens * spec.hidden_size
    layer = _widest(spec)
    attention = layer.q_heads * layer.key_dim + layer.kv_heads * (layer.key_dim + layer.value_dim)
    row = 6 * spec.hidden_size + 3 * _inner(spec) + 3 * attention
    return least + size * tokens * row


def _widest(spec: ModelSpec) -> LayerSpec:
    attends = [layer for layer in spec.layers if layer.kind is not AttentionKind.NONE]
    return max(attends, key=lambda layer: layer.q_heads * layer.key_dim)
