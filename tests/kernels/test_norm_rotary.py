"""RMS norm and rotary embedding against the truth."""

from __future__ import annotations

import pytest
import torch

from stepwell.kernels.norm import cpu as norm
from stepwell.kernels.norm import reference as norm_reference
from stepwell.kernels.rotary import cpu as rotary
from stepwell.kernels.rotary import reference as rotary_reference

pytestmark = pytest.mark.skipif(
    norm.refusal(torch.zeros(16, dtype=torch.bfloat16)) is not None,
    reason=str(norm.refusal(torch.zeros(16, dtype=torch.bfloat16))),
)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("size", [16, 64, 896])
def test_rms_norm(rows, size):
    torch.manual_seed(0)
    x = (torch.randn(rows, size) * 10.0 ** torch.randint(-3, 4, (rows, 1))).bfloat16()
    x[0] = 0
    weight = torch.randn(size).bfloat16()
    out = norm.rms_norm(x, weight, epsilon=1e-6)
    truth = norm_reference.rms_norm(x, weight, epsilon=1e-6)
    torch.testing.assert_close(out, truth, rtol=2**-7, atol=0)
    assert (out != truth).float().mean() < 0.02  # sums in another order tip a rounding


def test_rms_norm_refuses():
    assert norm.refusal(torch.zeros(16)) is not None
    assert "multiple" in str(norm.refusal(torch.zeros(20, dtype=torch.bfloat16)))


@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize("with_norm", [False, True])
def test_rotary(tokens, dim, with_norm):
    torch.manual_seed(0)
    wide = torch.randn(tokens, 5, dim).bfloat16()
    heads = wide[:, :3]  # strided rows, heads side by side
    angles = torch.rand(tokens, dim // 2) * 100
    cos, sin = (f(torch.cat([angles, angles], -1)).bfloat16() for f in (torch.cos, torch.sin))
    weight = torch.randn(dim).bfloat16() if with_norm else None
    truth = rotary_reference.rotate(heads, cos, sin, norm=weight, epsilon=1e-6)
    rest = wide[:, 3:].clone()
    rotary.rotate(heads, cos, sin, norm=weight, epsilon=1e-6)
    torch.testing.assert_close(heads, truth, rtol=2**-6, atol=2**-7)
    assert torch.equal(wide[:, 3:], rest)
