"""Writing K,V and attention over the paged pool as calls of a program.

The layers' records of a step differ in where their part of the pool is, their window and their
counters, and in nothing else; so one layer's are prepared and the others are copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepwell.kernels.paged_attention import AttentionSpec, PagedLayer, RaggedBatch, version_for
from stepwell.kernels.paged_attention import cpu as attention
from stepwell.kernels.paged_attention import cpu_record as fld
from stepwell.kernels.write_kv import cpu as write_kv
from stepwell.model.fused.recognize import LayerParts

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepCalls:
    """(kernel, record) addresses of each layer, int64 [layers, 2]; keeps what they point to."""

    writes: Integers
    attends: Integers
    _write_records: Integers
    _alive: tuple[Any, ...]

    def check(self) -> None:
        """After the run: raises IndexError if a slot was outside the pool."""
        outside = int(self._write_records[:, write_kv.OUTSIDE].sum())
        if outside:
            raise IndexError(f"{outside} rows were for slots outside the pool")


class PagedCalls:
    """Knows where each layer's part of one pool is. `usable`: whether compiled code reads it."""

    def __init__(self, parts: Sequence[LayerParts], layers: Mapping[nn.Module, PagedLayer]) -> None:
        self._layers = layers
        self._paged = [layers[p.attention] for p in parts]
        self.usable = all(version_for(layer) is attention.attend for layer in self._paged)
        if not self.usable:
            return
        self._spec = AttentionSpec(scale=parts[0].scale)
        self._windows = np.array([attention.window_field(p.shape.window) for p in parts])
        pools = [attention.pool_fields(layer) for layer in self._paged]
        self._pool_columns = list(pools[0])
        self._pools = np.array([list(fields.values()) for fields in pools], dtype=np.int64)
        self._written = self._records_of_nothing()
        self._heads = (parts[0].shape.q_heads, parts[0].shape.kv_heads)

    def fits(self, layers: Mapping[nn.Module, PagedLayer]) -> bool:
        """Whether this is the pool that it was made for."""
        return layers is self._layers

    def _records_of_nothing(self) -> Integers:
        """Each layer's record for writing no token."""
        first = self._paged[0]
        batch = RaggedBatch.build([], [], block_tables=[], block_size=first.block_size)
        key = torch.zeros(0, first.kv_heads, first.key_dim, dtype=first.dtype)
        value = torch.zeros(0, first.kv_heads, first.value_dim, dtype=first.dtype)
        records = [write_kv.prepare(key, value, layer, batch).record for layer in self._paged]
        return torch.stack(records).numpy()

    def prepare(
        self, batch: RaggedBatch, query: Tensor, key: Tensor, value: Tensor, out: Tensor
    ) -> StepCalls:
        """The calls of a step whose rows [T, columns] are these."""
        q_heads, kv_heads = self._heads
        keys, values = (rows.view(len(rows), kv_heads, -1) for rows in (key, value))
        write = write_kv.prepare(keys, values, self._paged[0], batch)
        writes = np.repeat(write.record.numpy()[None], len(self._paged), axis=0)
        own = (self._written != self._written[0]).any(axis=0)  # where layers differ
        writes[:, own] = self._written[:, own]

        heads = query.view(len(query), q_heads, -1)
        call = attention.prepare(heads, self._paged[0], batch, self._spec)
        attends = np.repeat(call.record.numpy()[None], len(self._paged), axis=0)
        attends[:, self._pool_columns] = self._pools
        attends[:, fld.WINDOW] = self._windows
        attends[:, fld.OUT] = out.data_ptr()
        counters = np.zeros((len(self._paged), max(1, call.counters)), dtype=np.int64)
        attends[:, fld.FINISHED] = _rows_of(counters)
        return StepCalls(
            writes=_pairs(write.kernel.address, writes),
            attends=_pairs(call.kernel.address, attends),
            _write_records=writes,
            _alive=(write, call, attends, counters),
        )


def _rows_of(table: Integers) -> Integers:
    """The address of each row."""
    return table.ctypes.data + table.strides[0] * np.arange(len(table), dtype=np.int64)


def _pairs(kernel: int, records: Integers) -> Integers:
    return np.stack([np.full(len(records), kernel, dtype=np.int64), _rows_of(records)], axis=1)
