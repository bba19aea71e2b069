"""CPU attention that reads pages in place: the tasks of a step, and the call into compiled code.

Decodes are cut into parts, so that one long context occupies all threads; a prompt's tokens go by
tiles instead, each over all its parts.

Owns the plan (once per step, shared by all layers) and the scratch of one call.
"""

from __future__ import annotations

import struct
import weakref
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.kernels.native import team
from stepwell.kernels.native.vector import BFLOAT16, FLOAT16, FLOAT32, LANES
from stepwell.kernels.paged_attention import cpu_kernel as compiled
from stepwell.kernels.paged_attention.base import AttentionSpec, PagedLayer, RaggedBatch

_STORED = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
_PART_TOKENS = 512  # a group's scores stay in the caches; long contexts occupy all threads
_TILE_ROWS = 64  # (token, head) rows of a prompt's task: K,V tiles are widened once for all
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
    if layer.key.dtype not in _STORED or layer.value.dtype != layer.key.dtype:
        return f"the pool holds {layer.key.dtype} keys and {layer.value.dtype} values"
    sizes = {
        "block_size": layer.block_size,
        "key_dim": layer.key_dim,
        "value_dim": layer.value_dim,
    }
    odd = [f"{name} {size}" for name, size in sizes.items() if size % LANES]
    return f"{' and '.join(odd)} not a multiple of {LANES}" if odd else None


def compile_for(dtype: torch.dtype, *, key_dim: int, value_dim: int, group: int) -> None:
    """Compile (or load from the disk cache) what a pool of these sizes needs."""
    compiled.compiled_kernel(_STORED[dtype], key_dim, value_dim, group)


def attend(
    query: Tensor,
    layer: PagedLayer,
    batch: RaggedBatch,
    spec: AttentionSpec,
    *,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `base.PagedAttention`; the log-sum-exp comes anyway. The pool must be a supported one."""
    tokens, q_heads, _ = query.shape
    group = q_heads // layer.kv_heads
    plan = _plan_for(batch, layer.kv_heads, group)
    rows = query.to(layer.key.dtype).contiguous()
    out = rows.new_empty(tokens, q_heads, layer.value_dim)
    lse = rows.new_empty(tokens, q_heads, dtype=torch.float32)
    sinks = None if spec.sinks is None else spec.sinks.float().contiguous()
    state = group * (layer.value_dim + 2)
    partials = rows.new_empty(plan.partials * state, dtype=torch.float32)
    finished = rows.new_zeros(plan.counters, dtype=torch.int64)
    scratch = rows.new_empty(_scratch_bytes(plan, layer, group), dtype=torch.uint8)
    size = layer.key.element_size()
    fields = {
        compiled.TASKS: len(plan.tasks),
        compiled.PLAN: plan.tasks.data_ptr(),
        compiled.QUERY: rows.data_ptr(),
        compiled.OUT: out.data_ptr(),
        compiled.LSE: lse.data_ptr(),
        compiled.KEY: layer.key.data_ptr(),
        compiled.VALUE: layer.value.data_ptr(),
        compiled.KEY_STRIDE: layer.key.stride(0) * size,
        compiled.VALUE_STRIDE: layer.value.stride(0) * size,
        compiled.TABLES: batch.block_tables.data_ptr(),
        compiled.TABLE_STRIDE: batch.block_tables.stride(0),
        compiled.KV_HEADS: layer.kv_heads,
        compiled.BLOCK_SIZE: layer.block_size,
        compiled.PART_TOKENS: plan.part_tokens,
        compiled.WINDOW: _EVERYTHING if spec.window is None else spec.window,
        compiled.SINKS: 0 if sinks is None else sinks.data_ptr(),
        compiled.NUMBERS: _two_floats(spec.scale, spec.softcap or 0.0),
        compiled.PARTIALS: partials.data_ptr(),
        compiled.FINISHED: finished.data_ptr(),
        compiled.TILE: plan.tile,
        compiled.SCRATCH: scratch.data_ptr(),  # torch aligns to cache lines
    }
    record = torch.tensor([fields.get(i, 0) for i in range(compiled.FIELDS)], dtype=torch.int64)
    kind = _STORED[layer.key.dtype]
    kernel = compiled.compiled_kernel(kind, layer.key_dim, layer.value_dim, group)
    team.run(kernel, record, tasks=len(plan.tasks))
    return out.to(query.dtype), lse


def _scratch_bytes(plan: _Plan, layer: PagedLayer, group: int) -> int:
    """Scratch for as many threads as may come."""
    rows = plan.tile * group
    each: int = compiled.scratch_bytes.py_func(
        rows, plan.part_tokens, layer.key_dim, layer.value_dim
    )
    return each * team.threads_for(len(plan.tasks))


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
    """One task per (sequence, part, head); the states to keep and the counters for merging."""
    parts = np.maximum(1, -(-contexts // part_tokens))
    sequence = np.repeat(np.arange(len(parts)), parts)  # one entry per (sequence, part)
    part = np.arange(len(sequence)) - (np.cumsum(parts) - parts)[sequence]
    several = (parts > 1).astype(np.int64)
    kept = parts * several
    head = np.arange(kv_heads)
    columns = np.zeros((len(sequence), kv_heads, compiled.COLUMNS), dtype=np.int64)
    columns[..., compiled.SEQUENCE] = columns[..., compiled.FIRST_ROW] = sequence[:, None]
    columns[..., compiled.HEAD] = head
    columns[..., compiled.TOKENS] = 1
    columns[..., compiled.POSITION] = contexts[sequence][:, None] - 1
    columns[..., compiled.FIRST_PART] = part[:, None]
    columns[..., compiled.LAST_PART] = part[:, None] + 1
    columns[..., compiled.PARTS] = parts[sequence][:, None]
    partial = (np.cumsum(kept) - kept)[sequence] * kv_heads
    columns[..., compiled.FIRST_PARTIAL] = partial[:, None] + head * parts[sequence][:, None]
    counter = (np.cumsum(several) - several)[sequence] * kv_heads
    columns[..., compiled.COUNTER] = counter[:, None] + head
    tasks = columns.reshape(-1, compiled.COLUMNS)
    return tasks, int(kept.sum()) * kv_heads, int(several.sum()) * kv_heads


def _prompt_tasks(
    batch: RaggedBatch, kv_heads: int, *, tile: int, part_tokens: int
) -> NDArray[np.int64]:
    """One task per (tile of new tokens, head), the longest contexts first."""
    tasks = []
    for span in batch.prefills:
        for first in reversed(range(0, span.query_length, tile)):
            row = np.zeros((kv_heads, compiled.COLUMNS), dtype=np.int64)
            tokens = min(tile, span.query_length - first)
            position = span.context_len - span.query_length + first
            row[:, compiled.SEQUENCE] = span.sequence
            row[:, compiled.HEAD] = np.arange(kv_heads)
            row[:, compiled.FIRST_ROW] = span.query_start + first
            row[:, compiled.TOKENS] = tokens
            row[:, compiled.POSITION] = position
            row[:, compiled.LAST_PART] = -(-(position + tokens) // part_tokens)
            row[:, compiled.PARTS] = 1
            tasks.append(row)
    empty = np.zeros((0, compiled.COLUMNS), dtype=np.int64)
    return np.concatenate([empty, *tasks])
