"""What an administrator does to a disk tier that is open: list, verify, shrink, empty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from stepwell.tier.disk.books import Location
from stepwell.tier.disk.index import DAMAGED_FILE
from stepwell.tier.disk.store import DiskTier

OnChunk = Callable[[int, int], None]
"""Called with bytes done and bytes to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedChunk:
    """One chunk. `sequence` is its age order, oldest lowest; `size` in bytes."""

    key: bytes
    size: int
    sequence: int
    segment: int
    meta: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found. `faults`: reason -> chunks. `repaired`: those now quarantined."""

    chunks: int
    bytes: int
    damaged: int
    repaired: int
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """What `gc` or `clear` did: chunks dropped, bytes on the disk before and after."""

    dropped: int
    before: int
    after: int


def list_chunks(tier: DiskTier) -> Iterator[ListedChunk]:
    """Every chunk, oldest first. Raises OSError."""
    for row in tier.rows():
        at = row.location
        yield ListedChunk(
            key=row.key, size=at.size, sequence=at.sequence, segment=at.segment, meta=row.meta
        )


def verify(
    tier: DiskTier, *, repair: bool = False, on_progress: OnChunk = lambda done, total: None
) -> Verdict:
    """Read every chunk and check header, key and checksum; `repair` quarantines what fails.

    Raises OSError when the disk cannot be read.
    """
    found = _by_place(tier)
    total = sum(at.size for _, at in found)
    done = repaired = 0
    faults: Counter[str] = Counter()
    buffer = bytearray(max((at.size for _, at in found), default=0))
    for key, at in found:
        fault = tier.fetch(key, at, [memoryview(buffer)[: at.size]] if at.size else [])
        if fault is not None and tier.books.find(key) == at:
            faults[fault.value] += 1
            repaired += repair and tier.quarantine(key, at, reason=fault.value)
        done += at.size
        on_progress(done, total)
    if repaired:
        tier.commit()
    return Verdict(
        chunks=len(found),
        bytes=total,
        damaged=sum(faults.values()),
        repaired=repaired,
        faults=dict(faults),
    )


def gc(tier: DiskTier, *, target: int) -> Shrunk:
    """Drop the oldest chunks and compact until at most `target` bytes are on the disk.

    Raises OSError.
    """
    tier.commit()
    before, dropped = tier.usage().used, 0
    for row in list(tier.rows()):
        if tier.usage().used - tier.dead_bytes() <= target:
            break
        tier.delete([row.key])
        dropped += 1
    if tier.usage().used > target:
        tier.compact(tier.usage().used)
    return Shrunk(dropped=dropped, before=before, after=tier.usage().used)


def clear(tier: DiskTier) -> Shrunk:
    """Drop everything. Raises OSError."""
    before = tier.usage().used
    keys = [key for key, _ in _by_place(tier)]
    tier.delete(keys)
    tier.medium.unlink(tier.directory / DAMAGED_FILE)
    tier.compact(0)
    return Shrunk(dropped=len(keys), before=before, after=tier.usage().used)


def _by_place(tier: DiskTier) -> list[tuple[bytes, Location]]:
    """Every chunk in the order in which the disk reads best."""
    return sorted(tier.locations(), key=lambda item: (item[1].segment, item[1].offset))
