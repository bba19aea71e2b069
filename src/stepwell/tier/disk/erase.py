"""Erasing: no byte of what is gone is left in the segments.

Rows go first and are committed; then whatever lies between live frames is overwritten with zeros,
whenever and for whatever reason it died. What the filesystem keeps of unlinked files, and what a
drive keeps of overwritten sectors, is not reached.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from stepwell.tier.contract import Doomed
from stepwell.tier.disk.books import unpack_location

if TYPE_CHECKING:
    from stepwell.tier.disk.store import DiskTier

_PIECE = 1 << 20
_SETTLE_SECONDS = 20.0


def erase_chunks(tier: DiskTier, keys: Iterable[bytes], also: Doomed | None) -> None:
    """The caller holds the commit lock, so that nothing is compacted meanwhile. Raises OSError."""
    doomed = list(keys)
    if also is not None:
        doomed += [row.key for row in tier.rows() if also(row.key, row.meta)]
    tier.delete(doomed)
    tier.commit()
    for number in _closed_segments(tier):
        with suppress(FileNotFoundError), tier.files.using(number) as fd:
            for start, end in _gaps(tier, number):
                for at in range(start, end, _PIECE):
                    tier.medium.write(fd, [bytes(min(_PIECE, end - at))], at)
            tier.medium.sync(fd)


def _closed_segments(tier: DiskTier) -> list[int]:
    """Segments that nobody writes to any more: what is written from here on goes into new ones."""
    with tier.lock:
        tier.books.active = None
        closed = list(tier.books.segments.values())
        numbers = [segment.number for segment in closed]
        if not tier.writes_ended(closed, timeout=_SETTLE_SECONDS):
            raise OSError(errno.EBUSY, "a write of the disk tier does not end")
    return numbers


def _gaps(tier: DiskTier, number: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of a closed segment in which no live frame lies."""
    with tier.lock:
        segment = tier.books.segments.get(number)
        tail = 0 if segment is None else segment.tail
        places = [unpack_location(packed) for packed in tier.books.where.values()]
    live = sorted((at.offset, at.offset + at.footprint) for at in places if at.segment == number)
    start = 0
    for offset, end in [*live, (tail, tail)]:
        if offset > start:
            yield start, offset
        start = end
