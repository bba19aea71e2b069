"""Writing each new token's K and V into its slot of the pool.

Owns: the truth (`reference`), a compiled CPU version (`cpu`), a torch one for any device
(`scatter`). Does not own: the pool, or which slot a token gets.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from stepwell.kernels import registry
from stepwell.kernels.paged_attention.base import PagedLayer, RaggedBatch
from stepwell.kernels.write_kv.base import WriteKV

__all__ = ["WriteKV", "version_for", "write_kv"]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.write_kv.{name}")


def _cpu_refusal(layer: PagedLayer) -> str | None:
    device = layer.key.device.type
    return None if device == "cpu" else f"the pool is on {device}"


_VERSIONS = (
    registry.Version(
        name="cpu",
        because="compiled, copies whole rows",
        load=lambda: _load("cpu").write,
        refusal=_cpu_refusal,
    ),
    registry.Version(
        name="scatter",
        because="torch's indexed assignment",
        load=lambda: _load("scatter").write,
        refusal=lambda layer: None,
    ),
    registry.Version(
        name="reference",
        because="plain torch",
        load=lambda: _load("reference").write,
        refusal=lambda layer: None,
    ),
)


def version_for(layer: PagedLayer) -> WriteKV:
    """The version that writes to this layer's pool; the choice is recorded."""
    version: WriteKV = registry.choose(
        "write_kv", _VERSIONS, subject=layer, key=(layer.key.device.type, f"kv {layer.format}")
    )
    return version


def write_kv(key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch) -> None:
    """key [T, kv_heads, key_dim], value [T, kv_heads, value_dim]; see `base.WriteKV`."""
    version_for(layer)(key, value, layer, batch)


def warm_up(layer: PagedLayer) -> None:
    """Compile what this layer needs, by writing no token at all."""
    batch = RaggedBatch.build(
        [], [], block_tables=[], block_size=layer.block_size, device=layer.key.device
    )
    key, value = (
        layer.key.new_empty(0, layer.kv_heads, dim, dtype=layer.dtype)
        for dim in (layer.key_dim, layer.value_dim)
    )
    write_kv(key, value, layer, batch)
