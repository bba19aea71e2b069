"""Large reads past the page cache, into memory that the kernel takes as it is.

O_DIRECT needs file offsets, lengths and addresses in whole blocks; everything here is in multiples
of `ALIGNMENT`. A filesystem that does not take it (tmpfs) is read through the page cache, and the
pages are given back after each read, so that the machine's memory is not filled with a second copy.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import torch
from torch import Tensor

from stepwell.kernels import advise_huge_pages

ALIGNMENT = 4096  # bytes: a page, and no less than the block size of the disks in use


def aligned(size: int) -> int:
    """`size` rounded up to whole blocks."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Arena:
    """Anonymous memory that begins on a page: readers fill `view`, tensors are cut from it."""

    def __init__(self, size: int) -> None:
        self.size = aligned(size)
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory gets no huge pages
        self._map = mmap.mmap(-1, max(self.size, ALIGNMENT), flags=private)
        self.view = memoryview(self._map)
        self.bytes: Tensor = torch.frombuffer(self._map, dtype=torch.uint8)
        advise_huge_pages(self.bytes)

    def tensor(self, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """A tensor over the bytes from `offset` on. It keeps the arena's memory alive."""
        count = 1
        for extent in shape:
            count *= extent
        return self.bytes[offset : offset + count * dtype.itemsize].view(dtype).view(shape)


class BlockFile:
    """A file opened for reading. Safe for several threads at once: nothing is shared but the
    descriptor. `direct`: whether reads bypass the page cache."""

    def __init__(self, path: Path, *, direct: bool = True) -> None:
        self.path = path
        self._fd, self.direct = _open(path, direct=direct)
        self.size = os.fstat(self._fd).st_size

    def read(self, target: memoryview, offset: int) -> None:
        """Fill `target` with the bytes from `offset` on. Raises OSError, also at the file's end."""
        done = 0
        while done < len(target):
            count = os.preadv(self._fd, [target[done:]], offset + done)
            if count <= 0:
                raise OSError(errno.EIO, f"{self.path.name} ends at {offset + done} bytes")
            done += count
        if not self.direct:
            os.posix_fadvise(self._fd, offset, len(target), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """No reads may be under way. Calling it twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: Path, *, direct: bool) -> tuple[int, bool]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    if direct and hasattr(os, "O_DIRECT"):
        try:
            fd = os.open(path, flags | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            if _answers(fd):
                return fd, True
            os.close(fd)
    return os.open(path, flags), False


def _answers(fd: int) -> bool:
    """Some filesystems take the flag at open and refuse the read."""
    probe = mmap.mmap(-1, ALIGNMENT)
    try:
        os.preadv(fd, [probe], 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True
