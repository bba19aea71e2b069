"""Gathered rows are the table's, and what is outside is counted, not read."""

from __future__ import annotations

import numpy as np
import torch

from stepwell.kernels.gather import cpu, reference
from stepwell.kernels.native import team


def run(table, places, out):
    record = torch.from_numpy(cpu.fields(table, places, out))
    team.run(cpu.compiled_kernel(), record, tasks=len(places))
    return record


def test_rows_of_any_stride():
    table = torch.randn(100, 80).bfloat16()[:, 8:72]
    places = np.array([3, 99, 0, 3], dtype=np.int64)
    out = torch.zeros(4, 96, dtype=torch.bfloat16)[:, :64]
    record = run(table, places, out)
    assert torch.equal(out, reference.gather(table, torch.from_numpy(places)))
    assert record[cpu.OUTSIDE] == 0


def test_places_outside_are_counted_and_leave_their_row():
    table = torch.randn(10, 32).bfloat16()
    out = torch.full((3, 32), 7.0).bfloat16()
    record = run(table, np.array([10, -1, 9], dtype=np.int64), out)
    assert record[cpu.OUTSIDE] == 2
    assert (out[:2] == 7).all() and torch.equal(out[2], table[9])
