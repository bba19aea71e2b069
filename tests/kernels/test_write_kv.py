"""write_kv: the slots hold what was given, byte by byte, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stepwell.kernels.paged_attention import PagedLayer, RaggedBatch
from stepwell.kernels.write_kv import cpu, reference, scatter, write_kv
from tests.kernels.pools import make_case, make_pool

VERSIONS = {"cpu": cpu.write, "scatter": scatter.write, "reference": reference.write}


def bits(pool: Tensor) -> Tensor:
    """The bytes, so that nan compares equal to itself."""
    return pool.contiguous().view(torch.uint8)


def twin(layer: PagedLayer) -> PagedLayer:
    """A copy with the same strides."""
    fresh = make_pool(
        layer.key.shape[0],
        heads=layer.kv_heads,
        block_size=layer.block_size,
        key_dim=layer.key_dim,
        value_dim=layer.value_dim,
        dtype=layer.key.dtype,
    )
    fresh.key.copy_(layer.key)
    fresh.value.copy_(layer.value)
    return fresh


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bytes(version: str, dtype: torch.dtype) -> None:
    """Against a plain loop over the pool, with K and V of different widths."""
    case = make_case(
        [(1, 1), (1, 33), (40, 200), (3, 3)], key_dim=48, value_dim=20, block_size=8, dtype=dtype
    )
    tokens = len(case.batch.slots)
    key = torch.randn(tokens, 2, 48).to(dtype)
    value = torch.randn(tokens, 2, 20).to(dtype)
    expected = twin(case.layer)
    for row, slot in enumerate(case.batch.slots.tolist()):
        expected.key[slot // 8, :, slot % 8] = key[row]
        expected.value[slot // 8, :, slot % 8] = value[row]
    VERSIONS[version](key, value, case.layer, case.batch)
    assert torch.equal(bits(case.layer.key), bits(expected.key))
    assert torch.equal(bits(case.layer.value), bits(expected.value))


@pytest.mark.parametrize("version", VERSIONS)
def test_neighbours_stay(version: str) -> None:
    """The other layers in the same blocks keep their bytes."""
    case = make_case([(17, 40)])
    storage = case.layer.key._base
    assert storage is not None
    per_layer = storage.shape[1] // 3
    before = bits(torch.cat([storage[:, :per_layer], storage[:, 2 * per_layer :]], dim=1)).clone()
    VERSIONS[version](torch.ones(17, 2, 32), torch.ones(17, 2, 32), case.layer, case.batch)
    after = bits(torch.cat([storage[:, :per_layer], storage[:, 2 * per_layer :]], dim=1))
    assert torch.equal(before, after)


def test_any_strides_and_dtype() -> None:
    """Heads-first views, as attention modules hand them over, and float32 into bfloat16."""
    case = make_case([(200, 200)], dtype=torch.bfloat16)
    key, value = torch.randn(2, 200, 32), torch.randn(2, 32, 200)
    write_kv(key.transpose(0, 1), value.permute(2, 0, 1), case.layer, case.batch)
    rows = case.layer.key[case.tables[0]].transpose(1, 2).flatten(0, 1)[:200]
    assert torch.equal(rows, key.transpose(0, 1).bfloat16())
    rows = case.layer.value[case.tables[0]].transpose(1, 2).flatten(0, 1)[:200]
    assert torch.equal(rows, value.permute(2, 0, 1).bfloat16())


def test_nothing_to_write() -> None:
    case = make_case([(1, 5)])
    before = bits(case.layer.key).clone()
    batch = RaggedBatch.build([], [], block_tables=[], block_size=16)
    write_kv(torch.zeros(0, 2, 32), torch.zeros(0, 2, 32), case.layer, batch)
    assert torch.equal(bits(case.layer.key), before)


@pytest.mark.parametrize("slot", [-1, -(1 << 40), 10_000_000])
@pytest.mark.parametrize("version", ["cpu", "reference"])
def test_slots_outside_the_pool_are_refused(version: str, slot: int) -> None:
    """A wrong slot is an error, never a write to someone else's memory."""
    case = make_case([(1, 5), (1, 9)])
    batch = replace(case.batch, slots=torch.tensor([slot, int(case.batch.slots[1])]))
    new = torch.zeros(2, 2, 32)
    with pytest.raises(IndexError, match="outside the pool"):
        VERSIONS[version](new, new, case.layer, batch)


def test_counts_must_agree() -> None:
    case = make_case([(1, 5), (1, 9)])
    with pytest.raises(ValueError, match="2 slots"):
        write_kv(torch.zeros(3, 2, 32), torch.zeros(3, 2, 32), case.layer, case.batch)
