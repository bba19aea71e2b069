"""Keys and values that belong to a name, and how they go into a tier and come out of it."""

from __future__ import annotations

import hashlib
import random

from stepwell.tier.contract import ReadOutcome, Tier, WriteOutcome

SIZE = 300_000


def key(name: object) -> bytes:
    """A key that a chunk could have."""
    return hashlib.sha256(str(name).encode()).digest()


def content(name: object, size: int = SIZE) -> bytes:
    """Bytes that belong to this name alone."""
    return random.Random(str(name)).randbytes(size)


def split(data: bytes | bytearray, seed: object) -> list[memoryview]:
    """Views of `data`, cut at odd places, empty ones among them."""
    cuts = random.Random(f"cut {seed}")
    places = sorted(cuts.randint(0, len(data)) for _ in range(cuts.randint(0, 6)))
    view = memoryview(data)
    return [view[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def write(tier: Tier, name: object, size: int = SIZE, *, meta: bytes = b"") -> WriteOutcome:
    """The content of `name`, in parts."""
    return tier.write(key(name), split(content(name, size), name), meta=meta)


def read(tier: Tier, name: object, size: int = SIZE, *, seed: object = 0) -> bytes | ReadOutcome:
    """The bytes if the tier says OK, else what it says."""
    out = bytearray(size)
    outcome = tier.read(key(name), split(out, seed))
    return bytes(out) if outcome is ReadOutcome.OK else outcome
