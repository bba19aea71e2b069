"""Packed linear layers: right results, no doubled memory, tied heads, untouched others."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from stepwell.base.errors import ConfigError
from stepwell.kernels.linear import PackedLinear, WeightFormat, pack, pack_linears, refusal
from stepwell.kernels.linear.quantize import dequantize, quantize
from stepwell.kernels.linear.reference import linear

packs = pytest.mark.skipif(
    refusal(torch.zeros(16, 16, dtype=torch.bfloat16)) is not None,
    reason=str(refusal(torch.zeros(16, 16, dtype=torch.bfloat16))),
)


@packs
@pytest.mark.parametrize("rows", [1, 3, 16, 64, 600])
@pytest.mark.parametrize("shape", [(896, 896), (128, 896), (100, 72), (4864, 64)], ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_matches_reference(rows: int, shape: tuple[int, int], with_bias: bool) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(shape) * shape[1] ** -0.5).bfloat16()
    bias = torch.randn(shape[0]).bfloat16() if with_bias else None
    x = torch.randn(rows, shape[1]).bfloat16()
    out = pack(weight, bias)(x)
    assert out.dtype == torch.bfloat16
    # Outputs are about normal: one rounding to 8 bits, and bfloat16 products summed in float32.
    truth = linear(x.float(), weight, bias)
    torch.testing.assert_close(out.float(), truth, atol=1e-3, rtol=2**-8)


@packs
def test_shapes_and_strides() -> None:
    weight = torch.randn(48, 32).bfloat16()
    module = pack(weight)
    wide = torch.randn(2, 5, 64).bfloat16()[..., :32]
    assert module(wide).shape == (2, 5, 48)
    torch.testing.assert_close(module(wide), module(wide.contiguous()), atol=0, rtol=0)
    assert (module.in_features, module.out_features) == (32, 48)
    assert 48 * 32 * 2 <= module.nbytes <= 64 * 32 * 2  # up to whole tiles of 64 rows
    assert module(torch.zeros(0, 32).bfloat16()).shape == (0, 48)


def test_refusals() -> None:
    assert refusal(torch.zeros(4, 4)) is not None
    with pytest.raises(ValueError, match="float32"):
        pack(torch.zeros(4, 4))


class Toy(nn.Module):
    """An embedding, a tied head, one layer with and one without bias, one of another kind."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 32)
        self.up = nn.Linear(32, 96)
        self.down = nn.Linear(96, 32, bias=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 64, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.down(torch.relu(self.up(self.embed(ids))))))


@packs
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pack_tied", [False, True])
def test_swap(tied: bool, pack_tied: bool) -> None:
    torch.manual_seed(0)
    model = Toy(tied=tied).bfloat16()
    ids = torch.arange(10)
    with torch.inference_mode():
        before = model(ids)
        old = weakref.ref(model.up.weight)
        report = pack_linears(model, pack_tied=pack_tied)
        gc.collect()
        assert old() is None, "the plain weight must be freed"
        after = model(ids)
    torch.testing.assert_close(after, before, atol=2e-2, rtol=2e-2)
    head_packed = not tied or pack_tied
    assert isinstance(model.head, PackedLinear) == head_packed
    assert (report.packed, report.kept) == (2 + head_packed, 1 - head_packed)
    assert report.extra_bytes == (64 * 32 * 2 if tied and pack_tied else 0)
    assert model.embed.weight.shape == (64, 32)
    assert report.decision.value == "bfloat16"


def test_float32_models_stay() -> None:
    model = Toy(tied=True)
    report = pack_linears(model)
    assert (report.packed, report.kept) == (0, 3)
    assert "float32" in report.decision.because
    assert type(model.up) is nn.Linear


@packs
def test_reference_choice_packs_nothing(choices: pytest.MonkeyPatch) -> None:
    choices.setenv("STEPWELL_KERNELS", "reference")
    assert pack_linears(Toy(tied=False).bfloat16()).packed == 0


def test_reference_choice_keeps_the_numbers_of_low_bits(choices: pytest.MonkeyPatch) -> None:
    choices.setenv("STEPWELL_KERNELS", "reference")
    model = Toy(tied=False).bfloat16()
    wanted = dequantize(quantize(model.up.weight, format=WeightFormat.INT4))
    report = pack_linears(model, format=WeightFormat.INT4)
    assert type(model.up) is nn.Linear and report.decision.value == "int4, plain"
    assert torch.equal(model.up.weight.float(), wanted.bfloat16().float())


@packs
def test_exceptions_stay_in_their_format() -> None:
    model = Toy(tied=True).bfloat16()
    pack_linears(model, format=WeightFormat.INT4, exceptions={"up": WeightFormat.BFLOAT16})
    assert model.up.format is WeightFormat.BFLOAT16
    assert model.down.format is model.head.format is WeightFormat.INT4


def test_low_bits_that_no_layer_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32") as caught:
        pack_linears(Toy(tied=True), format=WeightFormat.INT8)
    assert caught.value.param == "model.weights"
