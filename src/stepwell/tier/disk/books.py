"""The disk tier's books, in memory: key -> location, bytes of each segment, what the index lacks.

Not locked: `store.py` owns the lock and holds it around every call here. A location is one packed
bytes object of 32 bytes, so that a million chunks take some 200 MB with their keys; meta stays in
the index and in the frames.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

from stepwell.tier.disk.options import aligned
from stepwell.tier.disk.segment import Segment
from stepwell.tier.frame import HEADER_BYTES

_PACKED = struct.Struct("<QQQII")
_ROW_BYTES = 256
"""What a row takes in the index and its WAL, beyond its meta; more than was ever seen."""


class Location(NamedTuple):
    """Where a frame is. `offset` and sizes in bytes; `sequence` grows with every write."""

    sequence: int
    offset: int
    size: int
    segment: int
    meta_size: int

    @property
    def end(self) -> int:
        """First byte after the frame."""
        return self.offset + HEADER_BYTES + self.meta_size + self.size

    @property
    def footprint(self) -> int:
        """Bytes that the frame takes in its segment."""
        return aligned(self.end - self.offset)

    def pack(self) -> bytes:
        """As the books keep it."""
        return _PACKED.pack(*self)


def unpack_location(packed: bytes) -> Location:
    """The location that `pack` made these bytes of."""
    return Location._make(_PACKED.unpack(packed))


@dataclass(frozen=True, slots=True)
class Row:
    """A row that the index is to have."""

    key: bytes
    location: Location
    meta: bytes


@dataclass(frozen=True, slots=True)
class BadFrame:
    """A row of the quarantine table."""

    key: bytes
    location: Location
    reason: str


@dataclass(slots=True)
class Batch:
    """One commit: rows to put and to remove, quarantine records, segments whose watermark moved,
    their watermarks, dead segments, and numbers of segments that no longer have a watermark."""

    rows: dict[int, Row] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    bad: list[BadFrame] = field(default_factory=list)
    touched: set[int] = field(default_factory=set)
    watermarks: dict[int, int] = field(default_factory=dict)
    dead: list[Segment] = field(default_factory=list)
    removed: set[int] = field(default_factory=set)

    @property
    def empty(self) -> bool:
        """Nothing to commit."""
        return not (
            self.rows or self.gone or self.bad or self.watermarks or self.dead or self.removed
        )


class Books:
    """The state of one open disk tier."""

    def __init__(self) -> None:
        self.where: dict[bytes, bytes] = {}
        self.segments: dict[int, Segment] = {}
        self.active: Segment | None = None
        self.next_sequence = 1
        self.next_segment = 1
        self.segment_bytes = 0  # sum of the tails
        self.new_files = False  # made since the last commit
        self.pending = Batch()
        self.pending_bytes = 0  # of frames not yet covered by a commit
        self.pending_index = 0  # of rows

    def find(self, key: bytes) -> Location | None:
        """Where the frame of a key is."""
        packed = self.where.get(key)
        return None if packed is None else unpack_location(packed)

    def open_segment(self) -> Segment:
        """A new active segment; the caller makes the file."""
        segment = Segment(self.next_segment)
        self.next_segment += 1
        self.segments[segment.number] = segment
        self.active = segment
        return segment

    def allocate(self, segment: Segment, size: int) -> int:
        """Take `size` (aligned) bytes at the tail; the offset."""
        offset = segment.tail
        segment.tail += size
        segment.in_flight.add(offset)
        self.segment_bytes += size
        return offset

    def give_back(self, segment: Segment, offset: int, size: int) -> bool:
        """A write did not happen. Whether the space was the segment's last and is free again."""
        segment.in_flight.discard(offset)
        if segment.tail != offset + size:
            return False
        segment.tail = offset
        self.segment_bytes -= size
        return True

    def add(self, row: Row) -> None:
        """A frame is whole: it can be found from here on. Replaces an earlier location."""
        old = self.find(row.key)
        if old is not None:
            self.segments[old.segment].live -= old.footprint
            if old.sequence != row.location.sequence:
                self.pending.rows.pop(old.sequence, None)
                self.pending.gone.add(old.sequence)
        segment = self.segments[row.location.segment]
        segment.in_flight.discard(row.location.offset)
        segment.live += row.location.footprint
        self.where[row.key] = row.location.pack()
        self.pending.rows[row.location.sequence] = row
        self.pending.touched.add(row.location.segment)
        self.pending_bytes += row.location.footprint
        self.pending_index += _ROW_BYTES + len(row.meta)

    def load(self, key: bytes, location: Location) -> None:
        """A frame that the index has already."""
        self.segments[location.segment].live += location.footprint
        self.where[key] = location.pack()

    def forget(self, key: bytes, *, reason: str = "") -> Location | None:
        """Drop a key; with a reason it is recorded as quarantined. None: it was not here."""
        location = self.find(key)
        if location is None:
            return None
        del self.where[key]
        self.segments[location.segment].live -= location.footprint
        row = self.pending.rows.pop(location.sequence, None)
        if row is not None:
            self.pending_index -= _ROW_BYTES + len(row.meta)
        self.pending.gone.add(location.sequence)  # a commit may be putting the row just now
        self.pending.touched.add(location.segment)  # or a start would find the frame past it
        if reason:
            self.pending.bad.append(BadFrame(key, location, reason))
            self.pending_index += _ROW_BYTES
        return location

    def take_batch(self) -> Batch:
        """All that the index lacks. Segments in which nothing lives leave the books with it, but
        their bytes count until `unlinked`."""
        batch, self.pending = self.pending, Batch()
        batch.dead = [
            segment
            for segment in self.segments.values()
            if not segment.live and segment.tail and not segment.in_flight
        ]
        for segment in batch.dead:
            del self.segments[segment.number]
            batch.removed.add(segment.number)
            if self.active is segment:
                self.active = None
        touched = batch.touched & self.segments.keys()
        batch.watermarks |= {number: self.segments[number].watermark for number in touched}
        self.pending_bytes = self.pending_index = 0
        return batch

    def restore(self, batch: Batch) -> None:
        """A commit failed: everything is to be done again."""
        newer = self.pending
        rows = {n: row for n, row in batch.rows.items() if n not in newer.gone}
        self.pending = Batch(
            rows=rows | newer.rows,
            gone=batch.gone | newer.gone,
            bad=batch.bad + newer.bad,
            touched=batch.touched | newer.touched,
        )
        self.pending.removed = batch.removed - {segment.number for segment in batch.dead}
        self.segments |= {segment.number: segment for segment in batch.dead}
        self.pending_bytes += sum(row.location.footprint for row in rows.values())
        self.pending_index += sum(_ROW_BYTES + len(row.meta) for row in rows.values())
        self.pending_index += _ROW_BYTES * len(batch.bad)

    def unlinked(self, segment: Segment) -> None:
        """The file of a segment that left with a batch is gone."""
        self.segment_bytes -= segment.tail
