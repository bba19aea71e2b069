"""Unpacking on the CPU: the call into compiled code."""

from __future__ import annotations

import torch

from stepwell.kernels.exponents import cpu_kernel as compiled
from stepwell.kernels.exponents.base import BLOCK, U16, Packed
from stepwell.kernels.native import team
from stepwell.kernels.native.arrays import address_of


def unpack(packed: Packed, out: U16) -> None:
    """See `base.UnpackVersion`."""
    count = len(packed.blocks)
    assert len(out) == count * BLOCK and out.flags.c_contiguous, "numbers and blocks agree"
    assert packed.blocks.flags.c_contiguous
    fields = [0] * compiled.FIELDS
    fields[compiled.COUNT] = count
    fields[compiled.LOW] = packed.low
    fields[compiled.BLOCKS] = address_of(packed.blocks)
    fields[compiled.OUT] = address_of(out)
    record = torch.tensor(fields, dtype=torch.int64)
    team.run(compiled.unpack_kernel(), record, tasks=-(-count // compiled.TASK_BLOCKS))
    out[packed.positions] = packed.values
