"""The KV pool: one allocation, made at start, that holds every block of every layer.

    pool   [num_blocks, block_numel]
    block  layer 0: K [kv_heads, block_size, key_dim], V [kv_heads, block_size, value_dim]
           layer 1: K ..., V ...

A block is contiguous over all layers, so that moving one is one copy; inside it, each head's
tokens are contiguous, so that attention reads straight lines. Layers may differ in shape.
The pool owns its memory until the engine ends; nothing here knows which block holds what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stepwell.kernels import advise_huge_pages
from stepwell.kernels.paged_attention import PagedLayer
from stepwell.model.attention import LayerShape


def block_numel(shapes: Sequence[LayerShape], *, block_size: int) -> int:
    """Elements of one block: K and V of `block_size` tokens over all layers."""
    return sum(s.kv_heads * (s.key_dim + s.value_dim) for s in shapes) * block_size


@dataclass(frozen=True, slots=True)
class KVPool:
    """The pool tensor and each attention module's view of it."""

    storage: Tensor
    layers: Mapping[nn.Module, PagedLayer]
    block_size: int

    @classmethod
    def allocate(
        cls,
        shapes: Mapping[nn.Module, LayerShape],
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> KVPool:
        """Allocate zeroed memory, touching every page now rather than while serving."""
        numel = block_numel(list(shapes.values()), block_size=block_size)
        storage = torch.empty(num_blocks, numel, dtype=dtype, device=device)
        advise_huge_pages(storage)
        storage.zero_()
        layers: dict[nn.Module, PagedLayer] = {}
        offset = 0
        for module, shape in shapes.items():
            views = []
            for dim in (shape.key_dim, shape.value_dim):
                view = (shape.kv_heads, block_size, dim)
                size = math.prod(view)
                views.append(storage[:, offset : offset + size].view(num_blocks, *view))
                offset += size
            layers[module] = PagedLayer(key=views[0], value=views[1])
        return cls(storage=storage, layers=layers, block_size=block_size)

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

    def copy_block(self, *, source: int, target: int) -> None:
        """Copy one block over all layers."""
        self.storage[target].copy_(self.storage[source])
