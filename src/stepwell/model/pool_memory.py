"""Memory of the pool: zeros from the operating system, and bringing its pages in ahead of use.

A page that nobody has touched costs nothing and is fetched when it is first written, while a
request waits. Fetching all pages of 768 MiB took 0.6 to 1.0 s on a virtual machine whose host had
to find them: worth it before serving, not before answering one prompt, which needs few of them. A
second thread that fetches them while kernels are loaded makes that take ten times as long, since
the system changes a process's map of memory for one thread at a time.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch
from torch import Tensor

from stepwell.kernels import advise_huge_pages

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14 and later; changes no value
_SMALLEST_PAGE = 4096


def zeroed(nbytes: int) -> Tensor:
    """uint8 [nbytes] of zeros in main memory, on huge pages where there are any. On Linux no page
    of it is there yet. Raises OSError where there is no room."""
    if nbytes == 0 or not sys.platform.startswith("linux"):
        return torch.zeros(nbytes, dtype=torch.uint8)
    mapped = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = torch.frombuffer(mapped, dtype=torch.uint8)
    advise_huge_pages(memory)
    return memory


def touch(memory: Tensor) -> None:
    """Fetch all pages under a tensor of `zeroed`, which nobody else uses meanwhile. Values stay."""
    if memory.device.type != "cpu" or not sys.platform.startswith("linux"):
        return
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if madvise(memory.data_ptr(), memory.nbytes, _POPULATE_WRITE) != 0:  # an older system
        memory.view(torch.uint8).view(-1)[::_SMALLEST_PAGE].bitwise_or_(0)
