"""How fast a tier gives chunks back through a codec, and what the codec loses."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stepwell.codec.buffers import total_bytes
from stepwell.codec.contract import Buffer, Codec
from stepwell.codec.value import ValueFormat
from stepwell.tier.contract import Tier
from stepwell.tier.disk import DiskTier

PROBE_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class Probe:
    """`seconds`: to read and decode each chunk, one after another. `size`: bytes of a value,
    `plain`: of what it decodes to."""

    seconds: tuple[float, ...]
    size: int
    plain: int

    @property
    def total(self) -> float:
        """Seconds for all of them."""
        return sum(self.seconds)

    @property
    def typical(self) -> float:
        """Median seconds of a chunk."""
        return sorted(self.seconds)[len(self.seconds) // 2]


def probe(store: Tier, form: ValueFormat, sample: Sequence[Buffer]) -> Probe:
    """Write some chunks like `sample`, read them back as a restore does, delete them. The codec's
    time counts, and its kernels are ready afterwards. Raises OSError."""
    keys = [os.urandom(32) for _ in range(PROBE_CHUNKS)]
    out = [memoryview(bytearray(part.nbytes)) for part in sample]
    value = memoryview(b"".join(form.encode(sample, index=1).parts))
    form.decode(value, out)
    landing = memoryview(bytearray(len(value)))
    for key in keys:
        store.write(key, [value])
    if isinstance(store, DiskTier):  # what comes back tomorrow is in no page cache
        store.flush()
        store.forget_cached()
    seconds = []
    for key in keys:
        start = time.perf_counter()
        store.read(key, [landing])
        form.decode(landing, out)
        seconds.append(time.perf_counter() - start)
    store.delete(keys)
    return Probe(tuple(seconds), len(value), total_bytes(sample))


def lost_share(codec: Codec, sample: Sequence[Buffer], *, dtype: torch.dtype) -> float:
    """Squared error of what comes back, as a share of the sample's energy about its mean."""
    out = [memoryview(bytearray(part.nbytes)) for part in sample]
    codec.decode([memoryview(bytes(p)) for p in codec.encode(sample, index=1)], out)
    before, after = (
        torch.frombuffer(bytearray(b"".join(parts)), dtype=dtype).float() for parts in (sample, out)
    )
    return float((after - before).square().sum() / (before - before.mean()).square().sum())
