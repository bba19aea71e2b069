"""The compiled argmax is torch's, ties and nan included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.kernels.argmax import argmax_rows, cpu, reference
from stepwell.kernels.native import team


@pytest.mark.parametrize("rows", [1, 3, 33])
@pytest.mark.parametrize("size", [16, 1000 * 16, 16384, 16400, 151936])
def test_agrees_with_torch(rows, size):
    torch.manual_seed(size + rows)
    x = torch.randn(rows, size).bfloat16()  # bfloat16 has few values: ties are common
    assert cpu.refusal(x) is None
    assert cpu.argmax_rows(x) == reference.argmax_rows(x)
    assert argmax_rows(x[:, :-1]) == reference.argmax_rows(x[:, :-1])


@pytest.mark.parametrize("value", [float("-inf"), -3.0, 0.0, float("inf")])
def test_equal_values_give_the_first(value):
    x = torch.full((2, 40000), value).bfloat16()
    assert cpu.argmax_rows(x) == [0, 0]
    x[1, 20000] = float("inf")
    assert cpu.argmax_rows(x)[1] == (0 if value == float("inf") else 20000)


def test_nan_is_the_largest():
    x = torch.randn(2, 32000).bfloat16()
    x[1, 17000] = float("nan")
    assert cpu.argmax_rows(x) == reference.argmax_rows(x)
    assert cpu.argmax_rows(x)[1] == 17000


def test_strided_rows():
    x = torch.randn(4, 64).bfloat16()[:, 16:48]
    assert cpu.argmax_rows(x) == reference.argmax_rows(x)


def test_minus_zero_is_no_less_than_zero():
    x = torch.full((1, 64), -1.0).bfloat16()
    x[0, 20], x[0, 40] = -0.0, 0.0
    assert cpu.argmax_rows(x) == reference.argmax_rows(x) == [20]


def test_a_choice_feeds_the_next_step():
    x = torch.randn(3, 40000).bfloat16()
    found = np.empty((3, cpu.pieces_of(40000)), dtype=np.int64)
    chosen, tokens = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    positions = np.array([5, 0, 9], dtype=np.int64)
    choice = cpu.choice_fields(found, chosen=chosen, tokens=tokens, positions=positions)
    team.run(cpu.compiled_kernel(), torch.from_numpy(cpu.fields(x, found)), tasks=9)
    team.run(cpu.compiled_choice(), torch.from_numpy(choice), tasks=3)
    assert chosen.tolist() == tokens.tolist() == reference.argmax_rows(x)
    assert positions.tolist() == [6, 1, 10]
