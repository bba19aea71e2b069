"""Planes: versions agree byte for byte, and every bit pattern comes back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stepwell.kernels.planes import Planes, cpu, reference
from stepwell.kernels.planes.base import Kind

VERSIONS = {"cpu": cpu, "reference": reference}


def cut(data: bytearray, size: int, *, itemsize: int) -> list[memoryview]:
    """Views of `size` numbers, and a rest."""
    step = size * itemsize
    return [memoryview(data)[at : at + step] for at in range(0, len(data), step)]


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 1000])
@pytest.mark.parametrize("step", [1, 7, 64])
def test_versions_agree_and_invert(kind: Kind, count: int, step: int) -> None:
    data = bytearray(np.random.default_rng(count).bytes(count * kind.itemsize))
    found = []
    for version in VERSIONS.values():
        planes = Planes.empty(kind, count)
        version.split(cut(data, step, itemsize=kind.itemsize), planes)
        found.append((bytes(planes.symbols), bytes(planes.rest)))
        for other in VERSIONS.values():
            out = bytearray(len(data))
            other.merge(planes, cut(out, step + 3, itemsize=kind.itemsize))
            assert out == data
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [Kind.BFLOAT16, Kind.FLOAT16])
def test_every_bit_pattern_comes_back(kind: Kind) -> None:
    data = bytearray(np.arange(1 << 16, dtype=np.uint16).tobytes())
    planes, out = Planes.empty(kind, 1 << 16), bytearray(len(data))
    cpu.split([memoryview(data)], planes)
    cpu.merge(planes, [memoryview(out)])
    assert out == data


def test_the_symbol_is_the_exponent() -> None:
    numbers = np.array([1.0, -1.0, 2.0, np.inf, -np.nan, 0.0], np.float32)
    for kind, bits in (
        (Kind.FLOAT32, numbers.view(np.uint32)),
        (Kind.BFLOAT16, (numbers.view(np.uint32) >> 16).astype(np.uint16)),
    ):
        planes = Planes.empty(kind, 6)
        cpu.split([memoryview(bytearray(bits.tobytes()))], planes)
        assert planes.symbols.tolist() == [127, 127, 128, 255, 255, 0]
    planes = Planes.empty(Kind.FLOAT16, 2)
    cpu.split([memoryview(bytearray(np.array([1.0, -1.0], np.float16).tobytes()))], planes)
    assert planes.symbols.tolist() == [0x78, 0x79]


@pytest.mark.parametrize("segments", [(1,), (5, 3), (64, 64, 7), (0, 9)])
def test_counts(segments: tuple[int, ...]) -> None:
    sizes = np.array(segments, np.int64)
    for rounds, spread in itertools.product((0, 1, 10), (1, 256)):
        count = rounds * int(sizes.sum())
        symbols = np.random.default_rng(1).integers(0, spread, count).astype(np.uint8)
        expected = reference.count(symbols, sizes)
        assert np.array_equal(cpu.count(symbols, sizes), expected)
        assert expected.sum() == count
