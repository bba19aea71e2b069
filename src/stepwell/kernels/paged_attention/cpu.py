"""CPU attention that reads pages in place: the tasks of a step, and the call into compiled code.

Decodes are cut into parts, so that one long context occupies all threads; a prompt's tokens go by
tiles instead, each over all its parts.

Owns the plan (once per step, shared by all layers) and the scratch of one call.
"""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.kernels.native import dot, team
from stepwell.kernels.native.vector import BFLOAT16, FLOAT16, FLOAT32, LANES
from stepwell.kernels.paged_attention import cpu_kernel as compiled
from stepwell.kernels.paged_attention import cpu_record as fld
from stepwell.kernels.paged_attention import low_bit_kernel, prompt_kernel
from stepwell.kernels.paged_attention.base import AttentionSpec, PagedLayer, RaggedBatch
from stepwell.kernels.paged_attention.low_bit import groups_of

_STORED = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
_PART_TOKENS = 512  # a group's scores stay in the caches; long contexts occupy all threads
_RUNS = 16  # of a long context, at least, for the threads to share
_TILE_ROWS = 168  # (token, head) rows of a prompt's task: K,V tiles are packed once for all
_EVERYTHING = 1 << 40  # a window no context exceeds


@dataclass(frozen=True, slots=True)
class _Plan:
    """The tasks of one step, for layers of one number of heads."""

    heads: tuple[int, int]  # kv heads, query heads per kv head
    tasks: Tensor  # int32 [tasks, COLUMNS]
    tile: int  # most tokens in a task
    partials: int  # states that parts leave to be merged
    counters: int  # (sequence, head) pairs of more than one part
    part_tokens: int


# One plan per step, shared by its layers; it goes when the engine drops the batch.
_plans: weakref.WeakKeyDictionary[RaggedBatch, _Plan] = weakref.WeakKeyDictionary()


def refusal(layer: PagedLayer) -> str | None:
    """Why compiled code does not read this pool in place, or None where it does."""
    if layer.key.device.type != "cpu":
        return f"the pool is on {layer.key.device.type}"
    if layer.dtype not in _STORED or layer.value.dtype != layer.key.dtype:
        return f"the pool holds {layer.key.dtype} keys and {layer.value.dtype} values"
    sizes = {
        "block_size": layer.block_size,
        "key_dim": layer.key_dim,
        "value_dim": layer.value_dim,
    }
    odd = [f"{name} {size}" for name, size in sizes.items() if size % LANES]
    return f"{' and '.join(odd)} not a multiple of {LANES}" if odd else None


def attend(
    query: Tensor,
    layer: PagedLayer,
    batch: RaggedBatch,
    spec: AttentionSpec,
    *,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `base.PagedAttention`; the log-sum-exp comes anyway. The pool must be a supported one."""
    call = prepare(query, layer, batch, spec)
    team.run(call.kernel, call.record, tasks=call.tasks)
    return call.out.to(query.dtype), call.lse


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One layer's call into compiled code. `record` is read and written while the kernel runs;
    `_alive` keeps what its addresses point to. Runs once: counters are left as they end."""

    kernel: Any
    record: Tensor  # int64 [cpu_record.FIELDS]
    tasks: int
    out: Tensor  # [T, q_heads, value_dim] in the layer's dtype
    lse: Tensor  # float32 [T, q_heads]
    counters: int  # int64 zeros at FINISHED
    _alive: tuple[Tensor, ...]


def prepare(
    query: Tensor, layer: PagedLayer, batch: RaggedBatch, spec: AttentionSpec
) -> AttentionCall:
    """The kernel for this layer and its argument record, with the step's plan and fresh scratch."""
    tokens, q_heads, _ = query.shape
    group = q_heads // layer.kv_heads
    plan = _plan_for(batch, layer.kv_heads, group)
    rows = query.to(layer.dtype).contiguous()
    out = rows.new_empty(tokens, q_heads, layer.value_dim)
    lse = rows.new_empty(tokens, q_heads, dtype=torch.float32)
    sinks = None if spec.sinks is None else spec.sinks.float().contiguous()
    state = group * (layer.value_dim + 2)
    partials = rows.new_empty(plan.partials * state, dtype=torch.float32)
    finished = rows.new_zeros(plan.counters, dtype=torch.int64)
    scratch = rows.new_empty(_scratch_bytes(plan, layer, group), dtype=torch.uint8)
    fields = {
        fld.TASKS: len(plan.tasks),
        fld.PLAN: plan.tasks.data_ptr(),
        fld.TILE: plan.tile,
        fld.SCRATCH: scratch.data_ptr(),  # torch aligns to cache lines
        fld.QUERY: rows.data_ptr(),
        fld.OUT: out.data_ptr(),
        fld.LSE: lse.data_ptr(),
        **pool_fields(layer),
        fld.TABLES: batch.block_tables.data_ptr(),
        fld.TABLE_STRIDE: batch.block_tables.stride(0),
        fld.PART_TOKENS: plan.part_tokens,
        fld.WINDOW: window_field(spec.window),
        fld.SINKS: 0 if sinks is None else sinks.data_ptr(),
        fld.NUMBERS: _two_floats(spec.scale, spec.softcap or 0.0),
        fld.PARTIALS: partials.data_ptr(),
        fld.FINISHED: finished.data_ptr(),
    }
    record = torch.tensor([fields.get(i, 0) for i in range(fld.FIELDS)], dtype=torch.int64)
    alive = (rows, partials, finished, scratch, plan.tasks, batch.block_tables)
    return AttentionCall(
        kernel=kernel_for(layer, group=group),
        record=record,
        tasks=len(plan.tasks),
        out=out,
        lse=lse,
        counters=plan.counters,
        _alive=alive if sinks is None else (*alive, sinks),
    )


def kernel_for(layer: PagedLayer, *, group: int) -> Any:
    """The machine code for this layer and `group` query heads a kv head."""
    kind = _STORED[layer.dtype]
    if layer.low_bit is None:
        dims = (layer.key_dim, layer.value_dim)
        return compiled.compiled_kernel(kind, *dims, group, pairs=_by_pairs(layer))
    vnni = dot.missing_features() is None
    dims = (layer.key_dim, layer.value_dim)
    return low_bit_kernel.compiled_kernel(kind, layer.low_bit.format, *dims, group, vnni=vnni)


def window_field(window: int | None) -> int:
    """How the record says how many tokens are visible."""
    return _EVERYTHING if window is None else window


def _by_pairs(layer: PagedLayer) -> bool:
    """Whether prompts are computed by dot products of pairs."""
    if layer.dtype != torch.bfloat16 or layer.low_bit is not None:
        return False
    reason = prompt_kernel.refusal(layer.key_dim, layer.value_dim)
    return reason is None and dot.missing_features() is None


def pool_fields(layer: PagedLayer) -> dict[int, int]:
    """What the record says about this layer's part of the pool; all else is the step's."""
    size = layer.key.element_size()
    return {
        fld.KEY: layer.key.data_ptr(),
        fld.VALUE: layer.value.data_ptr(),
        fld.KEY_STRIDE: layer.key.stride(0) * size,
        fld.VALUE_STRIDE: layer.value.stride(0) * size,
        fld.KV_HEADS: layer.kv_heads,
        fld.BLOCK_SIZE: layer.block_size,
    }


def _scratch_bytes(plan: _Plan, layer: PagedLayer, group: int) -> int:
    """Scratch for as many threads as may come: in a program all do, whatever there is to do."""
    rows, threads = plan.tile * group, torch.get_num_threads()
    key_dim, value_dim = layer.key_dim, layer.value_dim
    if layer.low_bit is None:
        pairs = _by_pairs(layer)
        own = compiled.scratch_bytes(rows, group, plan.part_tokens, key_dim, value_dim, pairs)
        return int(own) * threads
    groups = [groups_of(layer.low_bit.format, dim) for dim in (key_dim, value_dim)]
    query = low_bit_kernel.query_bytes(key_dim, groups[0])
    own = low_bit_kernel.scratch_bytes(rows, plan.part_tokens, query, value_dim, groups[1])
    return int(own) * threads


def _two_floats(first: float, second: float) -> int:
    """Two float32 in the bytes of one int64 field."""
    return int(struct.unpack("=q", struct.pack("=ff", first, second))[0])


def _plan_for(batch: RaggedBatch, kv_heads: int, group: int) -> _Plan:
    """The step's plan, made by the first layer that asks."""
    plan = _plans.get(batch)
    if plan is None or plan.heads != (kv_heads, group):
        plan = _plans[batch] = _make_plan(batch, kv_heads, group)
    return plan


def _make_plan(batch: RaggedBatch, kv_heads: int, group: int) -> _Plan:
    part_tokens = -(-_PART_TOKENS // batch.block_size) * batch.block_size
    contexts = batch.context_lens[: batch.num_decodes].numpy().astype(np.int64)
    decodes, partials, counters = _decode_tasks(contexts, kv_heads, part_tokens)
    tile = max(1, _TILE_ROWS // group) if batch.prefills else 1
    prompts = _prompt_tasks(batch, kv_heads, tile=tile, part_tokens=part_tokens)
    return _Plan(
        heads=(kv_heads, group),
        tasks=torch.from_numpy(np.concatenate([prompts, decodes]).astype(np.int32)),
        tile=tile,
        partials=partials,
        counters=counters,
        part_tokens=part_tokens,
    )


def _decode_tasks(
    contexts: NDArray[np.int64], kv_heads: int, part_tokens: int
) -> tuple[NDArray[np.int64], int, int]:
    """Tasks per (sequence, run of parts, head), the states to keep and the counters for merging.

    A sequence's runs depend on its own length alone, and so do its results.
    """
    parts = np.maximum(1, -(-contexts // part_tokens))
    same, partials, counters = _decode_tasks_of(tuple(parts.tolist()), kv_heads)
    tasks = same.copy()
    tasks[:, fld.POSITION] = contexts[tasks[:, fld.SEQUENCE]] - 1
    return tasks, partials, counters


@lru_cache(maxsize=64)
def _decode_tasks_of(
    parts_of: tuple[int, ...], kv_heads: int
) -> tuple[NDArray[np.int64], int, int]:
    """As `_decode_tasks` but for positions: the same in most steps of the same sequences."""
    parts = np.array(parts_of, dtype=np.int64)
    length = np.clip(parts // _RUNS, 1, fld.MOST_PARTS)
    runs = -(-parts // length)
    sequence = np.repeat(np.arange(len(runs)), runs)  # one entry per (sequence, run)
    number = np.arange(len(sequence)) - (np.cumsum(runs) - runs)[sequence]
    first = number * length[sequence]
    several = (runs > 1).astype(np.int64)
    kept = runs * several
    head = np.arange(kv_heads)
    columns = np.zeros((len(sequence), kv_heads, fld.COLUMNS), dtype=np.int64)
    columns[..., fld.SEQUENCE] = columns[..., fld.FIRST_ROW] = sequence[:, None]
    columns[..., fld.HEAD] = head
    columns[..., fld.TOKENS] = 1
    columns[..., fld.FIRST_PART] = first[:, None]
    columns[..., fld.LAST_PART] = np.minimum(first + length[sequence], parts[sequence])[:, None]
    columns[..., fld.TOGETHER] = runs[sequence][:, None]
    columns[..., fld.NUMBER] = number[:, None]
    partial = (np.cumsum(kept) - kept)[sequence] * kv_heads
    columns[..., fld.FIRST_PARTIAL] = partial[:, None] + head * runs[sequence][:, None]
    counter = (np.cumsum(several) - several)[sequence] * kv_heads
    columns[..., fld.COUNTER] = counter[:, None] + head
    tasks = columns.reshape(-1, fld.COLUMNS)
    return tasks, int(kept.sum()) * kv_heads, int(several.sum()) * kv_heads


def _prompt_tasks(
    batch: RaggedBatch, kv_heads: int, *, tile: int, part_tokens: int
) -> NDArray[np.int64]:
    """One task per (tile of new tokens, head), the longest contexts first."""
    tasks = []
    for span in batch.prefills:
        for first in reversed(range(0, span.query_length, tile)):
            row = np.zeros((kv_heads, fld.COLUMNS), dtype=np.int64)
            tokens = min(tile, span.query_length - first)
            position = span.context_len - span.query_length + first
            row[:, fld.SEQUENCE] = span.sequence
            row[:, fld.HEAD] = np.arange(kv_heads)
            row[:, fld.FIRST_ROW] = span.query_start + first
            row[:, fld.TOKENS] = tokens
            row[:, fld.POSITION] = position
            row[:, fld.LAST_PART] = -(-(position + tokens) // part_tokens)
            row[:, fld.TOGETHER] = 1
            tasks.append(row)
    empty = np.zeros((0, fld.COLUMNS), dtype=np.int64)
    return np.concatenate([empty, *tasks])
