"""Every call that changes the disk, in one place, so that tests can fail or die at each of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stepwell.tier.contract import Buffer

_MAX_VECTORS = 1024
_CREATE = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC


class Medium:
    """The operating system. All methods raise OSError."""

    def open(self, path: Path, *, create: bool) -> int:
        """A descriptor for reading and writing."""
        return os.open(path, _CREATE if create else os.O_RDWR | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, parts: Sequence[bytes | Buffer], offset: int) -> None:
        """All parts, one after the other, from `offset` on."""
        todo: Sequence[bytes | Buffer] = parts
        while todo:
            done = os.pwritev(fd, todo[:_MAX_VECTORS], offset)
            offset += done
            todo = _rest([memoryview(part) for part in todo], done)

    def read(self, fd: int, parts: Sequence[bytearray | Buffer], offset: int) -> int:
        """Fill the parts from `offset` on; bytes read, fewer only at the end of the file."""
        todo: Sequence[bytearray | Buffer] = parts
        total = 0
        while todo:
            done = os.preadv(fd, todo[:_MAX_VECTORS], offset + total)
            if done == 0:
                break
            total += done
            todo = _rest([memoryview(part) for part in todo], done)
        return total

    def forget_cached(self, fd: int) -> None:
        """Drop the file's clean pages from memory: the next read meets the disk."""
        with suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, fd: int) -> None:
        """Return when the file's bytes are on the disk."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Return when names made in this directory are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut the file to `size` bytes."""
        os.ftruncate(fd, size)

    def unlink(self, path: Path) -> None:
        """Remove a name; absent is fine."""
        path.unlink(missing_ok=True)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, replacing the target."""
        os.replace(source, target)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit an index transaction. Raises sqlite3.Error."""
        connection.commit()

    def free_bytes(self, path: Path) -> int:
        """What the filesystem has left for us."""
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize


def _rest(parts: list[memoryview], done: int) -> list[memoryview]:
    """The parts without their first `done` bytes."""
    for index, part in enumerate(parts):
        if done < len(part):
            return [part[done:], *parts[index + 1 :]]
        done -= len(part)
    return []
