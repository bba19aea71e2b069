"""Small disk tiers and values that can be told apart, for tests that need no torch."""

from __future__ import annotations

import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

from stepwell.tier.contract import ReadOutcome
from stepwell.tier.disk import DiskOptions, DiskTier
from tests.values import key

KIB = 1 << 10
MIB = 1 << 20


def value_of(name: int) -> bytes:
    """Bytes that belong to this name alone; sizes from 0 to 20,000."""
    source = random.Random(name)
    return source.randbytes(source.choice((0, 1, 3000, 4096, 9000, 20_000)))


def meta_of(name: int) -> bytes:
    """Meta that belongs to this name alone."""
    return b"meta %d" % name


def small_options(**changes: Any) -> DiskOptions:
    """8 MiB in segments of 128 KiB, without a floor."""
    values: dict[str, Any] = {
        "capacity": 8 * MIB,
        "segment_bytes": 128 * KIB,
        "free_floor": 0,
        "commit_bytes": 256 * KIB,
        "commit_seconds": 3600.0,
    }
    return DiskOptions(**values | changes)


def open_tier(path: Path, *, medium: Any = None, **changes: Any) -> DiskTier:
    """A small tier in this directory."""
    return DiskTier(path, options=small_options(**changes), medium=medium)


def put(tier: DiskTier, name: int) -> Any:
    """Write a named value in three parts."""
    value = value_of(name)
    cuts = (0, len(value) // 3, len(value) // 2, len(value))
    parts = [memoryview(value[a:b]) for a, b in pairwise(cuts)]
    return tier.write(key(name), parts, meta=meta_of(name))


def get(tier: DiskTier, name: int) -> bytes | ReadOutcome:
    """Read a named value into two buffers; its bytes, or why not."""
    size = tier.size_of(key(name))
    if size is None:
        size = len(value_of(name))
    first, second = bytearray(size // 2), bytearray(size - size // 2)
    outcome = tier.read(key(name), [memoryview(first), memoryview(second)])
    return bytes(first + second) if outcome is ReadOutcome.OK else outcome


def disk_bytes(path: Path) -> int:
    """What the quota counts, recounted: files rounded up to blocks."""
    names = [n for n in os.listdir(path) if n.startswith(("segment-", "index."))]
    sizes = (os.stat(path / n).st_size for n in names)
    return sum(-(-size // 4096) * 4096 for size in sizes)


def check_books(tier: DiskTier) -> None:
    """The books equal a recount from the map and from the files."""
    books = tier.books
    live = dict.fromkeys(books.segments, 0)
    for name in books.where:
        at = books.find(name)
        assert at is not None
        live[at.segment] += at.footprint
        assert at.offset + at.footprint <= books.segments[at.segment].tail
    assert live == {n: s.live for n, s in books.segments.items()}
    assert books.segment_bytes == sum(s.tail for s in books.segments.values())
    for number, segment in books.segments.items():
        size = os.stat(tier.files.path(number)).st_size if segment.tail else 0
        assert size <= segment.tail
    assert set(tier.files.numbers()) == set(books.segments)
