"""bfloat16 in 12 bits: every pattern of bits comes back, and products are those of plain panels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stepwell.kernels.linear import WeightFormat, layout, lossless, pack, pack_linears, refusal
from stepwell.kernels.linear.panels import pack_panels
from stepwell.kernels.linear.reference import linear
from stepwell.kernels.pages import Slabs

_reason = refusal(torch.zeros(16, 16, dtype=torch.bfloat16), format=WeightFormat.INT8)
needs_panels = pytest.mark.skipif(_reason is not None, reason=str(_reason))


def bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.view(torch.int16)


def matrix(rows: int, columns: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) * columns**-0.5).bfloat16()


def every_pattern() -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


@pytest.fixture
def any_aside(monkeypatch):
    """However many weights lie aside."""
    monkeypatch.setattr(lossless, "_MOST_ASIDE", 1.0)


def again(weight: torch.Tensor) -> torch.Tensor:
    packed = layout.from_lossless(weight, Slabs())
    assert packed is not None
    return layout.to_lossless(packed)


@pytest.mark.parametrize("order", ["sorted", "mixed", "by column"])
def test_every_pattern_of_bits_comes_back(any_aside, order):
    """nan with all payloads, inf, denormals and both zeros among them."""
    weight = every_pattern().view(256, 256)
    if order == "mixed":
        shuffled = torch.randperm(1 << 16, generator=torch.Generator().manual_seed(1))
        weight = every_pattern()[shuffled].view(64, 1024)
    elif order == "by column":
        weight = weight.T.contiguous()
    assert torch.equal(bits(again(weight)), bits(weight))


@pytest.mark.parametrize("shape", [(64, 64), (1, 8), (77, 192), (600, 896)], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30])
def test_round_trip(any_aside, shape, size):
    weight = (matrix(*shape).float() * size).bfloat16()
    assert torch.equal(bits(again(weight)), bits(weight))


def test_bytes():
    packed = layout.from_lossless(matrix(1024, 896), Slabs())
    plain = layout.from_bfloat16(matrix(1024, 896), Slabs())
    assert packed is not None and packed.aside is not None
    assert len(packed.aside.entries) < 3e-4 * 1024 * 896
    assert 0.75 <= packed.nbytes / plain.nbytes < 0.755


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_rows_of_zeros_lie_in_place(value):
    weight = matrix(64, 64)
    weight[5:40] = value
    packed = layout.from_lossless(weight, Slabs())
    assert packed is not None and packed.aside is not None and len(packed.aside.entries) < 8
    assert torch.equal(bits(layout.to_lossless(packed)), bits(weight))


def planted() -> torch.Tensor:
    """Weights that lie aside in the first and last place of rows, panels and the matrix; rows far
    larger and smaller than others; zeros."""
    weight = matrix(200, 896, seed=3)
    for row, column, value in (
        (0, 0, 0.0), (15, 895, 1e-20), (16, 0, -3e-12), (17, 450, 0.0), (63, 7, -0.0),
        (64, 8, 900.0), (199, 895, -1e-30), (199, 0, 40.0), (100, 100, 1e-39),
    ):  # fmt: skip
        weight[row, column] = value
    weight[30] *= 2.0**40
    weight[31] *= 2.0**-40
    weight[32] = 0
    return weight


@needs_panels
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_those_of_plain_panels(threads):
    weight, bias = planted(), torch.randn(200).bfloat16()
    module, plain = pack(weight, bias, format=WeightFormat.LOSSLESS), pack(weight, bias)
    assert module.format is WeightFormat.LOSSLESS
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (*range(1, 14), 40, 487):
            x = torch.randn(rows, 896).bfloat16()
            wanted = linear(x.float(), weight.float(), bias.float())
            # one rounding to bfloat16; products are summed in float32
            torch.testing.assert_close(module(x).float(), wanted, atol=1e-3, rtol=2**-8)
            assert (module(x) == plain(x)).float().mean() > 0.995, rows
    finally:
        torch.set_num_threads(before)


@needs_panels
def test_without_weights_aside_bits_are_those_of_plain_panels():
    weight = matrix(150, 256)
    weight = torch.where(weight.abs() < 2.0**-14, 2.0**-14, weight)
    module, plain = pack(weight, format=WeightFormat.LOSSLESS), pack(weight)
    assert len(module.aside) == 0
    for rows in (1, 2, 5, 6, 7, 40):
        x = torch.randn(rows, 256).bfloat16()
        assert torch.equal(module(x), plain(x)), rows


@needs_panels
def test_rows_do_not_depend_on_their_tile():
    module = pack(planted(), format=WeightFormat.LOSSLESS)
    x = torch.randn(500, 896).bfloat16()
    alone = torch.cat([module(x[i : i + 1]) for i in range(20)])
    for rows in (2, 3, 4, 5, 6, 7, 8, 20, 500):
        assert torch.equal(module(x[:rows])[:20], alone[:rows]), rows


@needs_panels
def test_inf_and_nan_stay_where_they_are():
    weight = matrix(100, 64)
    weight[20, 3], weight[70, 9], weight[71, 9] = float("inf"), float("nan"), float("-inf")
    x = torch.rand(4, 64).bfloat16() + 1
    out = pack_panels(weight, None, format=WeightFormat.LOSSLESS, slabs=Slabs())(x)
    assert (out[:, 20] == float("inf")).all() and (out[:, 71] == float("-inf")).all()
    assert out[:, 70].isnan().all()
    others = [i for i in range(100) if i not in (20, 70, 71)]
    assert out[:, others].isfinite().all()


@needs_panels
def test_buffers_are_what_is_counted():
    module = pack(planted(), format=WeightFormat.LOSSLESS)
    counted = sum(b.numel() * b.element_size() for b in module.buffers())
    assert counted - 4 * len(module.padded_bias) == module.nbytes


@needs_panels
def test_too_many_exponents_stay_in_bfloat16():
    wild = torch.randn(64, 64) * 2.0 ** torch.randint(-60, 60, (64, 64))
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).bfloat16()
    model[1].weight = nn.Parameter(wild.bfloat16())
    report = pack_linears(model, format=WeightFormat.LOSSLESS)
    assert [layer.format for layer in model] == [WeightFormat.LOSSLESS, WeightFormat.BFLOAT16]
    assert report.decision.value == "lossless"
    assert "1 in bfloat16: 16 exponents hold too few" in report.decision.because


def test_reference_choice_keeps_the_weights(choices: pytest.MonkeyPatch):
    choices.setenv("STEPWELL_KERNELS", "reference")
    model = nn.Sequential(nn.Linear(32, 32)).bfloat16()
    before = model[0].weight.clone()
    assert pack_linears(model, format=WeightFormat.LOSSLESS).decision.value == "plain"
    assert torch.equal(model[0].weight, before)
