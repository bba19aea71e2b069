"""Opening a directory as it was left: by a close, by kill -9, by a power cut, or by damage."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.tier.disk.books import Books, Location, Row
from stepwell.tier.disk.index import Index, IndexDamaged, set_aside
from stepwell.tier.disk.medium import Medium
from stepwell.tier.disk.options import aligned
from stepwell.tier.disk.segment import Found, Segment, SegmentFiles, walk_frames
from stepwell.tier.frame import FrameFault

OnProgress = Callable[[int, int], None]
"""Called with bytes looked at so far, and bytes to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What opening found. `found`: chunks that can be read. `recovered`: those of them that only
    the segments knew. `dropped`: rows whose bytes are gone or whose checksum failed, and torn
    frames. `quarantined`: whole frames with wrong bytes, met while scanning. `scanned`: bytes of
    segments looked at."""

    found: int
    recovered: int
    dropped: int
    quarantined: int
    scanned: int
    seconds: float
    rebuilt: bool
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Recovery:
    """One opening in progress."""

    directory: Path
    files: SegmentFiles
    medium: Medium
    on_progress: OnProgress
    books: Books = field(default_factory=Books)
    recovered: int = 0
    dropped: int = 0
    quarantined: int = 0
    scanned: int = 0
    rebuilt: bool = False
    reasons: list[str] = field(default_factory=list)

    def run(self) -> tuple[Index, RecoveryReport]:
        """Fill the books. What the index is to learn from it is in their pending batch.

        Raises OSError.
        """
        start = time.monotonic()
        index, sizes, marks = self._load()
        self.rebuilt = index.created and bool(sizes)
        if self.rebuilt:
            self.reasons.append("no index: rebuilt from segments")
        self._scan_tails(sizes, marks)
        self._settle(sizes, marks)
        report = RecoveryReport(
            found=len(self.books.where),
            recovered=self.recovered,
            dropped=self.dropped,
            quarantined=self.quarantined,
            scanned=self.scanned,
            seconds=time.monotonic() - start,
            rebuilt=self.rebuilt,
            reasons=tuple(self.reasons),
        )
        return index, report

    def _load(self) -> tuple[Index, dict[int, int], dict[int, int]]:
        """The index, sizes of segments, watermarks. An index that cannot be read is set aside."""
        for _ in range(2):
            self.books, self.dropped = Books(), 0
            index = None
            try:
                index = Index(self.directory, medium=self.medium)
                sizes, marks = self._sizes(), index.watermarks()
                self.books.next_segment = max([0, *sizes, *marks]) + 1
                self.books.pending.removed |= marks.keys() - sizes.keys()
                self._load_rows(index, sizes)
                return index, sizes, marks
            except (IndexDamaged, sqlite3.Error) as error:
                if index is not None:
                    index.close()
                self.reasons.append(f"index damaged ({error}): set aside")
                set_aside(self.directory, medium=self.medium)
        raise OSError(errno.EIO, "a new index of the disk tier cannot be read")

    def _sizes(self) -> dict[int, int]:
        """Segment -> bytes of its file; each is entered in the books."""
        sizes = {}
        for number in self.files.numbers():
            sizes[number] = os.stat(self.files.path(number)).st_size
            self.books.segments[number] = Segment(number, tail=0)
        return sizes

    def _load_rows(self, index: Index, sizes: dict[int, int]) -> None:
        """Rows whose checksum matches and whose frame lies within a file."""
        books, before = self.books, self.dropped
        for sequence, row in index.rows():
            if row is None:
                self.dropped += 1
                books.pending.gone.add(sequence)
                continue
            at = row.location
            books.next_sequence = max(books.next_sequence, at.sequence + 1)
            if at.end > sizes.get(at.segment, 0):
                self.dropped += 1
                books.pending.gone.add(at.sequence)
                continue
            old = books.find(row.key)
            if old is not None:
                books.forget(row.key)
            books.load(row.key, at)
            segment = books.segments[at.segment]
            segment.tail = max(segment.tail, aligned(at.end))
        if self.dropped > before:
            self.reasons.append(f"{self.dropped - before} rows without their bytes: dropped")

    def _scan_tails(self, sizes: dict[int, int], marks: dict[int, int]) -> None:
        """Frames past the watermarks: written, but not yet committed when the end came."""
        starts = {n: min(aligned(max(marks.get(n, 0), 0)), size) for n, size in sizes.items()}
        total = sum(sizes[n] - start for n, start in starts.items())
        for number, start in starts.items():
            if start == sizes[number]:
                continue
            base = self.scanned - start

            def heard(offset: int, base: int = base) -> None:
                self.scanned = base + offset
                self.on_progress(self.scanned, total)

            with self.files.using(number) as fd:
                walk = walk_frames(
                    fd, number, start=start, end=sizes[number], medium=self.medium, on_bytes=heard
                )
                for found in walk:
                    self._take(number, found)

    def _take(self, number: int, found: Found) -> None:
        """One frame (or torn place) of a tail."""
        header = found.header
        if header is None or found.fault is FrameFault.SHORT:
            self.dropped += 1
            return
        books = self.books
        books.next_sequence = max(books.next_sequence, header.stamp + 1)
        at = Location(header.stamp, found.offset, header.payload_size, number, header.meta_size)
        known = books.find(header.key)
        if known is not None and (known.sequence >= at.sequence or found.fault is not None):
            return  # a copy that compaction had not committed, or the row's own frame
        if found.fault is not None:
            self.quarantined += 1
            self.reasons.append(f"segment {number} at {found.offset}: {found.fault.value}")
            return
        segment = books.segments[number]
        segment.tail = max(segment.tail, aligned(at.end))
        books.add(Row(header.key, at, found.meta))
        self.recovered += 1

    def _settle(self, sizes: dict[int, int], marks: dict[int, int]) -> None:
        """Cut what follows the last frame that counts; the next write goes there.

        The watermark must not lie past the cut when frames are appended again: the new ones are in
        the batch that the store commits before it takes the first write.
        """
        books = self.books
        for number, segment in books.segments.items():
            if sizes[number] > segment.tail:
                with self.files.using(number) as fd:
                    self.medium.truncate(fd, segment.tail)
            if marks.get(number) != segment.tail:
                books.pending.watermarks[number] = segment.tail
            books.segment_bytes += segment.tail
        for number in [n for n, s in books.segments.items() if not s.tail]:
            self.files.remove(number)
            del books.segments[number]
            books.pending.watermarks.pop(number, None)
            books.pending.removed.add(number)
