"""Asking the operating system for huge pages under large tensors, or many small ones side by side.

A step reads a few kilobytes from each of many scattered blocks, and with 4 KiB pages nearly each
such read first waits for an address translation. Measured on the reference machine, random reads
of 2 to 8 KiB by one thread: 18 to 25 GB/s, with huge pages 21 to 28.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

_HUGE_PAGE = 2 << 20
_SLAB = 64 << 20  # bytes of address space; those of its pages that nothing lies in cost no memory
_ALIGNMENT = 64  # a cache line, and a vector register


def advise_huge_pages(memory: Tensor) -> bool:
    """Advise huge pages for a CPU tensor's storage; call it before the memory is first written.

    Returns whether the kernel took the advice. Nothing depends on it but speed.
    """
    if not sys.platform.startswith("linux") or memory.device.type != "cpu":
        return False
    storage = memory.untyped_storage()
    start = -(-storage.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE  # whole pages inside the storage
    length = (storage.data_ptr() + storage.nbytes() - start) // _HUGE_PAGE * _HUGE_PAGE
    if length <= 0:
        return False
    libc = ctypes.CDLL(None)
    address, size = ctypes.c_void_p(start), ctypes.c_size_t(length)
    return bool(libc.madvise(address, size, mmap.MADV_HUGEPAGE) == 0)


class Slabs:
    """Memory on huge pages for what stays, such as weights: parts are handed out one after the
    other and never taken back. A slab lives as long as any tensor in it."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes], not filled, at a multiple of 64 bytes."""
        if len(self._free) < nbytes:
            self._free = _new_slab(max(nbytes, _SLAB))
        taken = self._free[:nbytes]
        self._free = self._free[-(-nbytes // _ALIGNMENT) * _ALIGNMENT :]
        return taken

    def keep(self, values: Tensor) -> Tensor:
        """A contiguous copy of the values."""
        part = self.take(values.numel() * values.element_size())
        return part.view(values.dtype).view(values.shape).copy_(values)


def _new_slab(nbytes: int) -> Tensor:
    whole = -(-nbytes // _HUGE_PAGE) * _HUGE_PAGE
    slab = torch.empty(whole + _HUGE_PAGE, dtype=torch.uint8)
    advise_huge_pages(slab)
    first = -slab.data_ptr() % _HUGE_PAGE
    return slab[first : first + whole]
