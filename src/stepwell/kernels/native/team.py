"""Running one kernel on every CPU thread, in the team of threads that torch already has.

Two thread pools in one process fight: OpenMP's workers spin for a while after each parallel
region, so a second pool (numba's own, say) starts its work on cores that are still spinning.
Kernels therefore enter the very OpenMP runtime that torch is linked to, through its C entry
point, and get the same workers that have just finished torch's last operation.

How workers wait between regions is the runtime's business, settled before torch is imported: with
`OMP_WAIT_POLICY=passive` they sleep. Where other processes want the cores too, the default
(spinning) makes a descheduled worker hold up each operation for a scheduler slice: 8 ms measured,
against some 20 us.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

_Entry = Any  # void GOMP_parallel(void (*)(void *), void *, unsigned threads, unsigned flags)


@cache
def openmp_entry() -> _Entry | None:
    """`GOMP_parallel` of the OpenMP runtime that torch uses, or None where it has none.

    LLVM's and Intel's runtimes export the name too. Looking it up through torch's own library
    finds the copy that torch is linked to, even where another is loaded.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        entry = ctypes.CDLL(str(library)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    entry.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint, ctypes.c_uint]
    entry.restype = None
    return entry


def threads_kind() -> str:
    """For `--explain`: how kernels are spread over cores."""
    if openmp_entry() is None:
        return "one thread (torch's OpenMP runtime has no entry point)"
    return f"torch's OpenMP team of {torch.get_num_threads()}"


def stay_on_one_thread() -> None:
    """Parallel regions that the calling thread begins run on it alone: for threads that work beside
    the model and must not bring a second team of spinning workers. `torch.set_num_threads` would
    hold for threads that begin later, too."""
    torch.get_num_threads()  # torch sets a thread's number when it first asks; ours comes after
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        ctypes.CDLL(str(library)).omp_set_num_threads(1)
    except (OSError, AttributeError):
        torch.set_num_threads(1)


def threads_for(tasks: int) -> int:
    """The most threads that `run` uses for so many tasks."""
    return max(1, min(torch.get_num_threads(), tasks))


def run(kernel: Any, arguments: torch.Tensor, *, tasks: int) -> None:
    """Call `kernel(address of arguments)` on as many threads as there is work for, and wait.

    `arguments` is an int64 tensor; kernels draw their tasks from a counter in it, so it does not
    matter how many threads come. ctypes releases the interpreter lock meanwhile.
    """
    threads = threads_for(tasks)
    entry = openmp_entry()
    if entry is None or threads == 1:
        _direct(kernel.address)(arguments.data_ptr())
    else:
        entry(kernel.address, arguments.data_ptr(), threads, 0)


@cache
def _direct(address: int) -> Any:
    return ctypes.CFUNCTYPE(None, ctypes.c_int64)(address)
