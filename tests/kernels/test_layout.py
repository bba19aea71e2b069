"""Panels hold exactly the weights, and rounded activations are those of the truth."""

from __future__ import annotations

import pytest
import torch

from stepwell.kernels.linear import activations, layout
from stepwell.kernels.linear.quantize import WeightFormat, quantize
from stepwell.kernels.pages import Slabs


@pytest.mark.parametrize("shape", [(64, 64), (1, 16), (77, 192), (129, 896)], ids=str)
def test_round_trip(shape):
    weight = torch.randn(shape).bfloat16()
    panels = layout.from_bfloat16(weight, Slabs())
    assert torch.equal(layout.to_bfloat16(panels), weight)
    assert panels.panels.shape[1:] == (shape[1] // 2, 4, 64)
    for format in (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.NF4):
        quantized = quantize(weight, format=format)
        again = layout.to_quantized(layout.from_quantized(quantized, Slabs()))
        assert torch.equal(again.levels, quantized.levels)
        assert torch.equal(again.scales, quantized.scales)


@pytest.mark.parametrize("group", [16, 64, 128])
@pytest.mark.parametrize("rows", [1, 3, 130])
def test_rounded_activations(group, rows):
    x = (torch.randn(rows, 256) * 10.0 ** torch.randint(-6, 6, (rows, 1))).bfloat16()
    x[0, :128] = 0
    out = activations.Rounded.empty(rows, 256, group=group)
    activations.round_rows(x, out)
    truth = activations.reference(x, group=group)
    # one float32 rounding may tip a level that lies halfway: rarely, but a row has only 256
    assert (out.levels.int() - truth.levels.int()).abs().max() <= 1
    assert (out.levels != truth.levels).sum() <= max(2, 1e-3 * out.levels.numel())
    scales = out.scales[..., 0].view(torch.float32)
    torch.testing.assert_close(scales, truth.scales[..., 0].view(torch.float32))
    levels = out.levels.view(rows, -1, group).sum(-1).int()
    assert torch.equal(out.scales[..., 1], -128 * levels)
