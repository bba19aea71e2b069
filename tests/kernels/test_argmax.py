"""The compiled argmax is torch's, ties and nan included."""

from __future__ import annotations

import pytest
import torch

from stepwell.kernels.argmax import argmax_rows, cpu, reference


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
