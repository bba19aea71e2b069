"""The KV pool: one allocation, made at start, that holds every block of every layer.

    pool   [num_blocks, block_numel]
    block  layer 0: K [kv_heads, block_size, key_dim], V [kv_heads, block_size, value_dim]
           layer 1: K ..., V ...

A block is contiguous over all layers, so that moving one is one copy; inside it, each head's
tokens are contiguous, so that attention reads straight lines. Layers may differ in shape.
A low-bit pool holds bytes, in tiles of levels and scales (`kernels/paged_attention/low_bit`).
The pool owns its memory until the engine ends; nothing here knows which block holds what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepwell.kernels.paged_attention import KVFormat, PagedLayer
from stepwell.kernels.paged_attention.low_bit import LowBitShape
from stepwell.model.attention import LayerShape
from stepwell.model.pool_memory import touch, zeroed


def block_bytes(
    shapes: Sequence[LayerShape],
    *,
    block_size: int,
    dtype: torch.dtype,
    form: KVFormat = KVFormat.MODEL,
) -> int:
    """Bytes of one block: K and V of `block_size` tokens over all layers, scales counted."""
    if form is not KVFormat.MODEL:
        return sum(_low_bit(s, form, block_size).nbytes for s in shapes)
    numbers = sum(s.kv_heads * (s.key_dim + s.value_dim) for s in shapes) * block_size
    return numbers * dtype.itemsize


def _low_bit(shape: LayerShape, form: KVFormat, block_size: int) -> LowBitShape:
    return LowBitShape(
        form=form,
        kv_heads=shape.kv_heads,
        key_dim=shape.key_dim,
        value_dim=shape.value_dim,
        block_size=block_size,
    )


def _zeros(nbytes: int, device: torch.device) -> Tensor:
    if device.type == "cpu":
        return zeroed(nbytes)
    return torch.zeros(nbytes, dtype=torch.uint8, device=device)


@dataclass(frozen=True, slots=True)
class KVPool:
    """The pool tensor and each attention module's view of it. `form`: how it keeps K and V."""

    storage: Tensor  # [num_blocks, block_numel], of the model's dtype or bytes
    layers: Mapping[nn.Module, PagedLayer]
    block_size: int
    form: KVFormat = KVFormat.MODEL

    @classmethod
    def reserve(
        cls,
        shapes: Mapping[nn.Module, LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        form: KVFormat = KVFormat.MODEL,
    ) -> KVPool:
        """Zeroed memory of which no page is there yet: `touch` fetches them."""
        size = block_bytes(list(shapes.values()), block_size=block_size, dtype=dtype, form=form)
        stored = dtype if form is KVFormat.MODEL else torch.uint8
        storage = _zeros(num_blocks * size, device).view(stored).view(num_blocks, -1)
        layers: dict[nn.Module, PagedLayer] = {}
        offset = 0
        for module, shape in shapes.items():
            if form is not KVFormat.MODEL:
                low_bit = _low_bit(shape, form, block_size)
                part = storage[:, offset : offset + low_bit.nbytes]
                layers[module] = low_bit.view(part, dtype=dtype)
                offset += low_bit.nbytes
                continue
            views = []
            for dim in (shape.key_dim, shape.value_dim):
                view = (shape.kv_heads, block_size, dim)
                size = math.prod(view)
                views.append(storage[:, offset : offset + size].view(num_blocks, *view))
                offset += size
            layers[module] = PagedLayer(key=views[0], value=views[1])
        return cls(storage=storage, layers=layers, block_size=block_size, form=form)

    def touch(self) -> None:
        """Fetch every page now, so that no step does."""
        touch(self.storage)

    @property
    def num_blocks(self) -> int:
        """Blocks in the pool."""
        return self.storage.shape[0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        return self.storage.shape[1] * self.storage.element_size()

    @property
    def nbytes(self) -> int:
        """Bytes of the pool."""
        return self.num_blocks * self.block_bytes

    def views(self, blocks: Sequence[int]) -> list[memoryview]:
        """The bytes of these blocks, in the pool's own memory. Only on the CPU."""
        rows = self.storage.view(torch.uint8).numpy()
        return [memoryview(rows[block]) for block in blocks]

    def overwrite(self, blocks: Sequence[int]) -> None:
        """Zeros into these blocks."""
        rows = torch.tensor(blocks, dtype=torch.long, device=self.storage.device)
        self.storage.index_fill_(0, rows, 0)

    def copy_block(self, *, source: int, target: int) -> None:
        """Copy one block over all layers."""
        self.storage[target].copy_(self.storage[source])
