"""Segment files: their names, their descriptors, and walking over the frames in one."""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.tier.disk.medium import Medium
from stepwell.tier.disk.options import ALIGNMENT, aligned
from stepwell.tier.frame import HEADER_BYTES, FrameFault, FrameHeader, check_body, parse_header

_NAME = re.compile(r"segment-(\d{8,})\.stw")
_MAX_OPEN = 256


@dataclass(slots=True)
class Segment:
    """Books of one segment. `tail`: where the next frame goes. `live`: bytes of frames that can be
    found. `in_flight`: offsets that are being written."""

    number: int
    tail: int = 0
    live: int = 0
    in_flight: set[int] = field(default_factory=set)

    @property
    def dead(self) -> int:
        """Bytes that compaction would give back."""
        return self.tail - self.live

    @property
    def watermark(self) -> int:
        """No frame before this offset is still being written."""
        return min(self.in_flight, default=self.tail)


@dataclass(slots=True)
class _Open:
    fd: int
    users: int = 0
    unlinked: bool = False


class SegmentFiles:
    """Descriptors of segments: opened when used, closed when unused and old, or unlinked.

    A thread that is inside `using` keeps its descriptor whatever happens to the name.
    """

    def __init__(self, directory: Path, *, medium: Medium) -> None:
        self._directory = directory
        self._medium = medium
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()

    def path(self, number: int) -> Path:
        """Where a segment lies."""
        return self._directory / f"segment-{number:08d}.stw"

    def numbers(self) -> list[int]:
        """Segments on the disk, in order."""
        found = (_NAME.fullmatch(name) for name in os.listdir(self._directory))
        return sorted(int(match[1]) for match in found if match is not None)

    def create(self, number: int) -> None:
        """A new empty segment."""
        fd = self._medium.open(self.path(number), create=True)
        with self._lock:
            self._open[number] = _Open(fd)

    @contextmanager
    def using(self, number: int) -> Iterator[int]:
        """The descriptor. Raises FileNotFoundError if the segment is gone."""
        with self._lock:
            entry = self._open.get(number)
            if entry is None:
                entry = _Open(self._medium.open(self.path(number), create=False))
                self._open[number] = entry
            self._open.move_to_end(number)
            entry.users += 1
            self._close_old()
        try:
            yield entry.fd
        finally:
            with self._lock:
                entry.users -= 1
                if entry.unlinked and not entry.users:
                    os.close(entry.fd)

    def remove(self, number: int) -> None:
        """Unlink a segment; readers inside `using` finish undisturbed."""
        self._medium.unlink(self.path(number))
        with self._lock:
            entry = self._open.pop(number, None)
            if entry is not None:
                entry.unlinked = True
                if not entry.users:
                    os.close(entry.fd)

    def close(self) -> None:
        """Close every descriptor, each as soon as nobody uses it."""
        with self._lock:
            for entry in self._open.values():
                entry.unlinked = True
                if not entry.users:
                    os.close(entry.fd)
            self._open.clear()

    def _close_old(self) -> None:
        if len(self._open) <= _MAX_OPEN:
            return
        for number, entry in self._open.items():
            if not entry.users:
                os.close(entry.fd)
                del self._open[number]
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a walk met at `offset`: a verified frame, or why there is none."""

    offset: int
    header: FrameHeader | None
    meta: bytes = b""
    fault: FrameFault | None = None


def place_of(number: int, offset: int) -> int:
    """The place that a frame's header is bound to."""
    return (number << 40 | offset) & (1 << 64) - 1


def walk_frames(
    fd: int,
    number: int,
    *,
    start: int,
    end: int,
    medium: Medium,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Iterator[Found]:
    """Frames between two offsets, bodies verified; `on_bytes` hears how far it got.

    Where no header verifies, the walk looks again at the next place where a frame may begin; runs
    of such places are reported once.
    """
    offset, lost = aligned(start), False
    while offset < end:
        header = read_header(fd, number, offset, medium=medium)
        if isinstance(header, FrameFault) or offset + header.frame_size > end:
            if not lost:
                fault = header if isinstance(header, FrameFault) else FrameFault.SHORT
                yield Found(offset=offset, header=None, fault=fault)
            lost, step = True, ALIGNMENT
        else:
            meta, fault_found = _verify(fd, header, offset, medium=medium)
            yield Found(offset=offset, header=header, meta=meta, fault=fault_found)
            lost, step = False, aligned(header.frame_size)
        offset += step
        on_bytes(min(offset, end))


def read_header(fd: int, number: int, offset: int, *, medium: Medium) -> FrameHeader | FrameFault:
    """The header at an offset, verified for that place."""
    head = bytearray(HEADER_BYTES)
    got = medium.read(fd, [head], offset)
    return parse_header(memoryview(head)[:got], place=place_of(number, offset))


def _verify(
    fd: int, header: FrameHeader, offset: int, *, medium: Medium
) -> tuple[bytes, FrameFault | None]:
    """Read the body of a frame whose header is verified and whose end lies within the file."""
    meta, body = bytearray(header.meta_size), bytearray(header.payload_size)
    got = medium.read(fd, [meta, body], offset + HEADER_BYTES)
    if got != len(meta) + len(body):
        return b"", FrameFault.SHORT
    view = memoryview(body)
    return bytes(meta), check_body(header, key=header.key, meta=bytes(meta), parts=[view])
