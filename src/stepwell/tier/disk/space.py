"""Where a frame may lie: the quota, the filesystem's floor, and the segment that is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stepwell.tier.disk.books import Books
from stepwell.tier.disk.medium import Medium
from stepwell.tier.disk.options import DiskOptions
from stepwell.tier.disk.segment import Segment, SegmentFiles

_PENDING_COST = 3  # a row may be in the WAL, in the database and in a split page at once
_HEADROOM = 16 << 20  # written before the filesystem is asked again what it has left


class Space:
    """Gives out room in segments. The caller holds the lock of the books, but for `used`."""

    def __init__(
        self,
        directory: Path,
        *,
        options: DiskOptions,
        books: Books,
        files: SegmentFiles,
        medium: Medium,
        index_bytes: Callable[[], int],
    ) -> None:
        self._directory = directory
        self._options = options
        self._books = books
        self._files = files
        self._medium = medium
        self._index_bytes = index_bytes
        self._headroom = 0

    def used(self) -> int:
        """Bytes on the disk, with what pending rows will add."""
        books = self._books
        return books.segment_bytes + self._index_bytes() + _PENDING_COST * books.pending_index

    def fits(self, size: int) -> bool:
        """Whether a frame of `size` bytes may be written now."""
        if self.used() + size > self._options.usable:
            return False
        if size > self._headroom:
            free = self._medium.free_bytes(self._directory) - self._options.free_floor
            if free < size:
                return False
            self._headroom = min(free, max(size, _HEADROOM))
        return True

    def take(self, size: int) -> tuple[Segment, int]:
        """Room in the active segment, or in a new one. Raises OSError."""
        books = self._books
        segment = books.active
        if segment is None or (segment.tail and segment.tail + size > self._options.segment_limit):
            self._files.create(books.next_segment)
            segment = books.open_segment()
            books.new_files = True
        self._headroom -= size
        return segment, books.allocate(segment, size)

    def give_back(self, segment: Segment, offset: int, size: int) -> None:
        """Undo `take` after a failed write: free again or dead."""
        if not self._books.give_back(segment, offset, size):
            return
        try:
            with self._files.using(segment.number) as fd:
                self._medium.truncate(fd, offset)
        except OSError:  # keep counting what may be on the disk; it is cut at the next start
            self._books.allocate(segment, size)
            segment.in_flight.discard(offset)
