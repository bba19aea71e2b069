"""Linear layers over panels: every format against the truth, for every tile, on 1 and 2 threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.kernels.linear import WeightFormat, pack, refusal
from stepwell.kernels.linear.quantize import dequantize, quantize
from stepwell.kernels.linear.reference import linear

_reason = refusal(torch.zeros(16, 16, dtype=torch.bfloat16), format=WeightFormat.INT8)
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

LOW_BITS = [WeightFormat.INT8, WeightFormat.INT4, WeightFormat.NF4]


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def matrix(rows: int, columns: int) -> torch.Tensor:
    return (torch.randn(rows, columns) * columns**-0.5).bfloat16()


def truth_of(weight: torch.Tensor, format: WeightFormat) -> torch.Tensor:
    if format is WeightFormat.BFLOAT16:
        return weight.float()
    return dequantize(quantize(weight, format=format))


@pytest.mark.parametrize("format", [WeightFormat.BFLOAT16, *LOW_BITS])
@pytest.mark.parametrize("shape", [(896, 896), (100, 64), (16, 4864), (1, 16), (70, 208)], ids=str)
def test_every_format_and_tile(format, shape, threads):
    torch.manual_seed(0)
    weight, bias = matrix(*shape), torch.randn(shape[0]).bfloat16()
    module = pack(weight, bias, format=format)
    truth = truth_of(weight, format)
    for rows in (1, 2, 3, 4, 5, 6, 7, 32, 587):
        x = torch.randn(rows, shape[1]).bfloat16()
        wanted = x.float() @ truth.T + bias.float()
        # bfloat16 output; int8 activations, where they are used, are off by 1/254 of the largest
        error = (module(x).float() - wanted).norm() / wanted.norm()
        assert error < (0.012 if format is WeightFormat.INT8 else 0.004), rows


@pytest.mark.parametrize("shape", [(704, 256), (4096, 256), (64, 896)], ids=str)
def test_rows_of_bfloat16_do_not_depend_on_their_tile(shape):
    """A row has the same bits alone, in any tile, and on any number of threads."""
    module = pack(matrix(*shape))
    x = torch.randn(500, shape[1]).bfloat16()
    alone = torch.cat([module(x[i : i + 1]) for i in range(20)])
    for rows in (2, 3, 4, 5, 6, 7, 8, 20, 500):
        assert torch.equal(module(x[:rows])[:20], alone[:rows]), rows


@pytest.mark.parametrize("format", LOW_BITS)
def test_rows_in_full_tiles_do_not_depend_on_where(format):
    module = pack(matrix(200, 128), format=format)
    x = torch.randn(600, 128).bfloat16()
    assert torch.equal(module(x)[96:192], module(x[96:192]))


@pytest.mark.parametrize("format", LOW_BITS)
def test_bytes_are_counted(format):
    module = pack(matrix(640, 896), format=format)
    share = module.nbytes / (640 * 896 * 2)
    assert share <= (0.51 if format is WeightFormat.INT8 else 0.285)
    assert sum(b.numel() * b.element_size() for b in module.buffers()) - 640 * 4 == module.nbytes


def test_buffers_may_be_re_pointed():
    """What streams weights moves them between calls."""
    first, second = matrix(64, 64), matrix(64, 64)
    module, other = pack(first), pack(second)
    x = torch.randn(3, 64).bfloat16()
    module.panels.data = other.panels.clone()
    assert torch.equal(module(x), other(x))


def test_refusals():
    odd = torch.zeros(16, 12, dtype=torch.bfloat16)
    assert "multiple of 8" in str(refusal(odd, format=WeightFormat.INT8))
    assert refusal(torch.zeros(16, 16), format=WeightFormat.INT4) is not None


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 40),
    out=st.integers(1, 150),
    columns=st.integers(1, 20),
    format=st.sampled_from([WeightFormat.BFLOAT16, *LOW_BITS]),
    seed=st.integers(0, 99),
)
def test_any_shape(rows, out, columns, format, seed):
    torch.manual_seed(seed)
    weight = matrix(out, 16 * columns)
    x = torch.randn(rows, 16 * columns).bfloat16()
    wanted = linear(x.float(), truth_of(weight, format).float())
    error = (pack(weight, format=format)(x).float() - wanted).norm()
    assert error <= 0.02 * wanted.norm() + 1e-6
