"""Chunks to put through codecs: random ones of many kinds, and mutations of encoded ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from stepwell.codec import Codec, ValueFormat
from stepwell.codec.contract import DecodeError
from stepwell.codec.raw import RawCodec
from stepwell.codec.shape import BlockShape, LayerKV

LAYOUT = bytes(16)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
UNEVEN = (
    LayerKV(kv_heads=2, key_dim=16, value_dim=16),
    LayerKV(kv_heads=1, key_dim=48, value_dim=16),
    LayerKV(kv_heads=3, key_dim=32, value_dim=64),
)


def uneven_shape(dtype: torch.dtype, *, tokens: int = 4) -> BlockShape:
    """A block whose layers differ."""
    return BlockShape(dtype=dtype, tokens=tokens, layers=UNEVEN)


def viewed(data: bytearray, size: int) -> list[memoryview]:
    """Views of `size` bytes each, and a rest."""
    return [memoryview(data)[at : at + size] for at in range(0, len(data), size)]


def random_numbers(source: random.Random, dtype: torch.dtype, count: int) -> bytearray:
    """So many numbers of one of several distributions, with specials now and then."""
    draw = np.random.default_rng(source.getrandbits(32))
    kind = source.randrange(6)
    if kind == 0:
        return bytearray(draw.bytes(count * dtype.itemsize))
    if kind == 1:
        return bytearray(count * dtype.itemsize)
    values = draw.standard_normal(count) * 10.0 ** source.randint(-6, 4)
    if kind == 2:
        values *= draw.lognormal(0, 3, count)
    if kind == 3:
        values[draw.random(count) < 0.7] = 0.0
    if kind == 4:
        specials = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-45, 3e38]
        values[draw.integers(0, count, 1 + count // 50)] = source.choice(specials)
    numbers = torch.from_numpy(values).to(dtype)
    return bytearray(numbers.view(torch.uint8).numpy().tobytes())


def through(codec: Codec, data: bytearray, size: int) -> tuple[bytearray, int]:
    """Encode views of `size` bytes, decode into views cut otherwise: (what came out, bytes)."""
    encoded = [memoryview(bytes(part)) for part in codec.encode(viewed(data, size))]
    out = bytearray(len(data))
    codec.decode(encoded, viewed(out, size + 3) if size else [])
    return out, sum(part.nbytes for part in encoded)


def mutated(parts: Sequence[bytes], source: random.Random) -> list[bytes]:
    """Parts with bits flipped, bytes overwritten, cut, repeated, or parts dropped and swapped."""
    changed = [bytearray(part) for part in parts]
    for _ in range(source.choice((1, 1, 1, 3))):
        kind = source.randrange(7)
        # half of the time the head, which is small and decides most
        part = changed[0] if source.random() < 0.5 else source.choice(changed)
        if kind == 5 and len(changed) > 1:
            del changed[source.randrange(len(changed))]
        elif kind == 6:
            changed.insert(source.randrange(len(changed)), bytearray(part))
        if not part or kind > 4:
            continue
        at = source.randrange(len(part))
        if kind == 0:
            part[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            part[at] = source.randrange(256)
        elif kind == 2:
            del part[at : at + source.randrange(1, 9)]
        elif kind == 3:
            part[at:at] = part[at : at + source.randrange(1, 9)]
        else:
            part[at : at + 8] = source.randbytes(len(part[at : at + 8]))
    return [bytes(part) for part in changed]


def campaign(
    codec: Codec, chunks: Sequence[bytearray], *, count: int, seed: int
) -> tuple[int, int]:
    """Decode `count` mutations: (refused, decoded). Anything but DecodeError is a failure, and so
    is a write outside `out`; the value's header refuses what it must, and never raises."""
    source = random.Random(seed)
    encoded = [[bytes(part) for part in codec.encode([memoryview(c)])] for c in chunks]
    exact = None if codec.spec.lossless else RawCodec()
    form = ValueFormat(codec, layout=LAYOUT, exact=exact)
    refused = decoded = 0
    for trial in range(count):
        which = trial % len(chunks)
        guard, size = 64, len(chunks[which])
        memory = bytearray(b"\xa5" * (size + 2 * guard))
        out = [memoryview(memory)[guard : guard + size]]
        damaged = mutated(encoded[which], source)
        try:
            codec.decode([memoryview(part) for part in damaged], out)
        except DecodeError:
            refused += 1
        else:
            decoded += 1
        assert memory[:guard] == memory[-guard:] == b"\xa5" * guard
        if trial % 10 == 0:
            value = bytearray(b"".join(form.encode([memoryview(chunks[which])]).parts))
            value[source.randrange(len(value))] ^= 1 << source.randrange(8)
            form.decode(memoryview(value), out)
    return refused, decoded


def expect_refused(call: Callable[[], None]) -> None:
    """DecodeError and nothing else."""
    with pytest.raises(DecodeError):
        call()
