"""bfloat16 in 12 bits: the same bits come back, from both versions."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stepwell.kernels.exponents import (  # noqa: E402
    BLOCK,
    Packed,
    base,
    cpu,
    pack,
    reference,
    unpack_version,
)

VERSIONS = [cpu, reference]


def bits(numbers: torch.Tensor) -> np.ndarray:
    return numbers.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def bell(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.02


def unpacked(version, packed: Packed, count: int) -> np.ndarray:
    out = np.full(count, 0x5555, np.uint16)
    version.unpack(packed, out)
    return out


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("count", [BLOCK, 3 * BLOCK, 2000 * BLOCK, base._CHUNK + 64 * BLOCK])
def test_the_same_bits(version, count: int) -> None:
    numbers = bits(bell(count))
    packed = pack(numbers)
    assert packed is not None
    assert np.array_equal(unpacked(version, packed, count), numbers)


@pytest.mark.parametrize("version", VERSIONS)
def test_numbers_that_have_no_code(version) -> None:
    """Zeros of both signs, subnormals, infinities, nan with their payload, huge and tiny ones."""
    values = bell(100 * BLOCK)
    values[::97] = 0.0
    numbers = bits(values).copy()
    odd = [0x8000, 0x0001, 0x807F, 0x7F80, 0xFF80, 0x7FC1, 0xFFFF, 0x7F7F, 0x0080]
    places = range(5, 9 * 700, 700)
    for place, value in zip(places, odd, strict=True):
        numbers[place] = value
    packed = pack(numbers)
    assert packed is not None and len(packed.positions) >= len(values) // 97
    assert np.array_equal(unpacked(version, packed, len(numbers)), numbers)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("value", [0.0, 3e38, -1e-38])
def test_exponents_at_both_ends(version, value: float) -> None:
    numbers = bits(torch.full((4 * BLOCK,), value))
    packed = pack(numbers)
    assert packed is not None and not len(packed.positions)
    assert np.array_equal(unpacked(version, packed, len(numbers)), numbers)


def test_weights_take_three_quarters() -> None:
    numbers = bits(bell(1 << 20))
    packed = pack(numbers)
    assert packed is not None
    assert packed.nbytes < 0.752 * numbers.nbytes


def test_what_does_not_fit_is_refused() -> None:
    assert pack(np.arange(1 << 16, dtype=np.uint16)) is None


def test_the_compiled_version_is_chosen() -> None:
    assert unpack_version().unpack is cpu.unpack
