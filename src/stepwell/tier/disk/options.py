"""What a disk tier is told when it is opened."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.base.errors import ConfigError
from stepwell.base.units import format_bytes

ALIGNMENT = 4096
INDEX_SLACK = 2 << 20
"""Bytes kept back for growth of the index and its WAL within one commit."""
UNLIMITED = 1 << 62
_MIN_SEGMENT = 64 << 10
_SEGMENTS = 16


def aligned(size: int) -> int:
    """`size` rounded up to where the next frame may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """Sizes in bytes. `capacity` bounds all files together; `free_floor` is what the filesystem
    keeps free; a group commit is due after `commit_bytes` or `commit_seconds`. Segments are at most
    a sixteenth of the capacity. Raises ConfigError for a capacity that holds no segments."""

    capacity: int
    segment_bytes: int = 256 << 20
    free_floor: int = 1 << 30
    commit_bytes: int = 256 << 20
    commit_seconds: float = 1.0

    def __post_init__(self) -> None:
        least = INDEX_SLACK + _SEGMENTS * _MIN_SEGMENT
        if self.capacity < least:
            raise ConfigError(
                f"a disk tier of {format_bytes(self.capacity)} is too small.",
                hint=f"Give it {format_bytes(least)} or more.",
            )
        if self.segment_bytes < _MIN_SEGMENT:
            raise ConfigError(f"segments must have at least {format_bytes(_MIN_SEGMENT)}.")

    @property
    def segment_limit(self) -> int:
        """Bytes after which a segment is full."""
        return aligned(min(self.segment_bytes, self.capacity // _SEGMENTS))

    @property
    def usable(self) -> int:
        """Bytes that values may take: the rest is compaction's and the index's."""
        return self.capacity - self.segment_limit - INDEX_SLACK
