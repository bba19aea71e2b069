"""Compiling before serving, so that no request ever waits for a compiler."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from stepwell.kernels import paged_attention, registry, write_kv
from stepwell.kernels.paged_attention import PagedLayer


def warm_up(layers: Iterable[tuple[PagedLayer, int]]) -> int:
    """Choose and compile what these (layer, query heads) need; returns the number of variants.

    Layers of equal sizes share one. Reads block 0 of the pool and writes none. A first run on a
    machine takes some seconds per variant, later ones load machine code from the disk cache.
    """
    variants: dict[tuple[object, ...], tuple[PagedLayer, int]] = {}
    for layer, q_heads in layers:
        key = (layer.format, layer.dtype, layer.key.device, layer.key_dim, layer.value_dim)
        variants.setdefault((*key, layer.block_size, q_heads // layer.kv_heads), (layer, q_heads))
    for layer, q_heads in variants.values():
        paged_attention.warm_up(layer, q_heads=q_heads)
        write_kv.warm_up(layer)
    return len(variants)


def threads_kind() -> str:
    """How CPU kernels are spread over cores, for `--explain`."""
    if registry.kernel_choice() == registry.REFERENCE:
        return f"torch's own, {torch.get_num_threads()} threads"
    from stepwell.kernels.native import team

    return team.threads_kind()
