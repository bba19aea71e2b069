"""Several kernels in one go: all threads run through a list of calls, waiting for each other where
one needs what another wrote.

Entering a team of threads costs some 10 us and a call from Python as much again; a decoder layer is
ten kernels of a few microseconds. A program enters the team once. Threads wait for each other by
spinning, then by giving up their time slice, so that a descheduled thread does not stall the rest.
Where a call says so, a program ends early if another thread has asked for it; the last thread to
arrive there decides for all.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from stepwell.kernels.native import team
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.interrupt import Interrupt
from stepwell.kernels.native.memory import add_int64, load_int64, take

# Fields of the int64 record whose address the program gets.
_CALLS, _TABLE, _ARRIVED, _TEAM_SIZE, _GIVE_WAY, _INTERRUPT, _ENDED = range(7)
# Columns of the table of calls.
KERNEL, RECORD, WAIT = range(3)
COLUMNS = 3
# What column WAIT says: nothing, wait for all threads, or wait and end here if that is asked for.
GO_ON, WAIT_FOR_ALL, WAIT_OR_END = range(3)
_SPINS = 20_000  # of some 20 ns each, before the time slice is given up
_I64 = ir.IntType(64)


@intrinsic
def _call(_typing: Any, address: Any, argument: Any) -> Any:
    """Call the kernel at an address."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_I64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _ask(_typing: Any, address: Any) -> Any:
    """The answer of the C function `int f(void)` at an address."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        answer = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return builder.sext(answer, _I64)

    return types.int64(types.int64), generate


@intrinsic
def _peek(_typing: Any, base: Any, index: Any) -> Any:
    """The index-th int64 at base as other threads left it; what they wrote before is seen too."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        place = builder.gep(builder.inttoptr(args[0], _I64.as_pointer()), [args[1]])
        return builder.load_atomic(place, ordering="acquire", align=8)

    return types.int64(types.int64, types.int64), generate


@cache
def compiled_program() -> Any:
    """The machine code; from the disk cache where it is there."""

    def program(args):
        size = 1
        if load_int64(args, _TEAM_SIZE) != 0:
            size = _ask(load_int64(args, _TEAM_SIZE))
        table = load_int64(args, _TABLE)
        arrived = load_int64(args, _ARRIVED)
        for at in range(load_int64(args, _CALLS)):
            _call(
                load_int64(table, COLUMNS * at + KERNEL), load_int64(table, COLUMNS * at + RECORD)
            )
            wait = load_int64(table, COLUMNS * at + WAIT)
            if (wait != GO_ON and size > 1) or wait == WAIT_OR_END:
                count = take(arrived, at) + 1
                if count == size:  # the last one lets the others go
                    ends = wait == WAIT_OR_END and _peek(load_int64(args, _INTERRUPT), 0) != 0
                    if ends:
                        add_int64(args, _ENDED, at + 1)
                    add_int64(arrived, at, 2 if ends else 1)
                spins = 0
                while _peek(arrived, at) <= size:
                    spins += 1
                    if spins > _SPINS:
                        _ask(load_int64(args, _GIVE_WAY))
                if _peek(arrived, at) > size + 1:
                    break

    return compile_kernel(program)


@cache
def _addresses() -> tuple[int, int]:
    """`omp_get_num_threads` of torch's OpenMP runtime (0: none) and `sched_yield`."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    size = 0
    if team.openmp_entry() is not None:
        size = ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p).value or 0
    give_way = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    return size, give_way


def run(calls: np.ndarray, *, threads: int, interrupt: Interrupt | None = None) -> int:
    """Run the calls (int64 [n, COLUMNS]: kernel address, record address, what is waited for
    afterwards) on up to `threads` threads, each call on all of them.

    Counters in the records must be 0; the caller keeps all that they point to alive. Returns how
    many calls have run: all, but for a program that ended early because of `interrupt`.
    """
    interrupt = interrupt or Interrupt()
    size, give_way = _addresses()
    arrived = np.zeros(len(calls), dtype=np.int64)
    record = torch.zeros(_ENDED + 1, dtype=torch.int64)
    record[:_ENDED] = torch.tensor(
        [len(calls), calls.ctypes.data, arrived.ctypes.data, size, give_way, interrupt.address]
    )
    team.run(compiled_program(), record, tasks=threads)
    return int(record[_ENDED]) or len(calls)
