"""Replacing the linear layers of a loaded model by packed ones, one at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch
from torch import Tensor, nn

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.hardware.account import grown
from stepwell.kernels import registry
from stepwell.kernels.linear import onednn
from stepwell.kernels.linear.base import PackedLinear
from stepwell.kernels.linear.quantize import WeightFormat, dequantize, quantize
from stepwell.kernels.pages import Slabs


@dataclass(frozen=True, slots=True)
class PackReport:
    """What `pack_linears` did. `extra_bytes`: packed copies whose original had to stay.
    `linear_bytes`, `plain_bytes`: of all linear layers now, and in bfloat16."""

    packed: int
    kept: int
    extra_bytes: int
    linear_bytes: int
    plain_bytes: int
    decision: Decision


def refusal(weight: Tensor, *, format: WeightFormat = WeightFormat.BFLOAT16) -> str | None:
    """Why this weight stays as it is, or None where it can be packed."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:  # before numba is imported
        return onednn.refusal(weight) or f"the weight is on {weight.device.type}"
    reason = _panels().refusal(weight)
    if reason is not None and format.is_exact:
        return onednn.refusal(weight)
    return reason


def pack(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    format: WeightFormat = WeightFormat.BFLOAT16,
    slabs: Slabs | None = None,
) -> PackedLinear:
    """A module that computes with a packed copy of weight [N, K]; the original is not kept.
    `slabs`: where the copy shall be, beside others.

    Raises ValueError where `refusal` has a reason.
    """
    reason = refusal(weight, format=format)
    if reason is not None:
        raise ValueError(reason)
    panels = _panels()
    if panels.refusal(weight) is not None:
        return onednn.OneDnnLinear(weight, bias)
    return panels.pack_panels(weight, bias, format=format, slabs=slabs or Slabs())


@cache
def _panels() -> ModuleType:
    """Imports numba."""
    with grown("kernels"):
        from stepwell.kernels.linear import panels
    return panels


def pack_linears(
    model: nn.Module,
    *,
    pack_tied: bool = True,
    format: WeightFormat = WeightFormat.BFLOAT16,
    exceptions: Mapping[str, WeightFormat] | None = None,
) -> PackReport:
    """Replace every `nn.Linear` whose weight can be packed. In place; inference only afterwards.

    `exceptions`: formats of single layers, by the module's name. Each original is dropped before
    the next is packed, so the peak is one weight more. A weight shared with another module (a head
    tied to the embedding) has to stay for that module: packing it costs its size again, so
    memory-bound callers pass `pack_tied=False`. Subclasses of nn.Linear (quantized ones, adapters)
    are left alone. Raises ConfigError if low bits were asked for and no layer can have them.
    """
    if registry.kernel_choice() == registry.REFERENCE:
        return _plain(model, format=format, exceptions=exceptions or {})
    uses = _weight_uses(model)
    slabs = Slabs()
    packed = kept = extra = linear_bytes = plain_bytes = wide = 0
    reason = "no linear layer"
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            full_name = f"{parent_name}.{name}" if parent_name else name
            wanted = (exceptions or {}).get(full_name, format)
            tied = uses[child.weight.data_ptr()] > 1
            refused = refusal(child.weight, format=wanted)
            if tied and not pack_tied:
                refused = "the weight is shared with the embedding"
            plain_bytes += 2 * child.weight.numel()
            if refused is not None:
                kept, reason = kept + 1, refused
                linear_bytes += child.weight.nbytes
                continue
            module = pack(child.weight, child.bias, format=wanted, slabs=slabs)
            setattr(parent, name, module)
            packed += 1
            wide += wanted is WeightFormat.LOSSLESS and module.format is not wanted
            linear_bytes += module.nbytes
            extra += module.nbytes if tied else 0
    if not packed and not format.is_exact:
        raise ConfigError(
            f"no layer can be kept as {format}: {reason}.",
            hint="Low-bit weights need a CPU with AVX-512 BF16 and VNNI, and model.dtype bfloat16.",
            param="model.weights",
        )
    because = f"{packed} packed, {extra} bytes kept twice"
    because += f", {kept} kept plain: {reason}" if kept or not packed else ""
    if exceptions:
        because += f", {len(exceptions)} layers in another format"
    if wide:
        because += f", {wide} in bfloat16: 16 exponents hold too few of their weights"
    if format is not WeightFormat.BFLOAT16:
        because += f", {linear_bytes / max(1, plain_bytes):.1%} of their bfloat16 bytes"
    decision = Decision("kernels.linear", str(format) if packed else "plain", because)
    return PackReport(packed, kept, extra, linear_bytes, plain_bytes, decision)


def _plain(
    model: nn.Module, *, format: WeightFormat, exceptions: Mapping[str, WeightFormat]
) -> PackReport:
    """The layers stay torch's; with low bits, their weights become the numbers these stand for."""
    kept = plain_bytes = 0
    for name, child in model.named_modules():
        if type(child) is not nn.Linear:
            continue
        kept, plain_bytes = kept + 1, plain_bytes + child.weight.nbytes
        wanted = exceptions.get(name, format)
        if not wanted.is_exact:
            numbers = dequantize(quantize(child.weight, format=wanted)).to(child.weight.dtype)
            child.weight = nn.Parameter(numbers, requires_grad=False)
    value = "plain" if format.is_exact else f"{format}, plain"
    decision = Decision("kernels.linear", value, f"{registry.VARIABLE}=reference")
    return PackReport(0, kept, 0, plain_bytes, plain_bytes, decision)


def _weight_uses(model: nn.Module) -> dict[int, int]:
    """How many modules hold the parameter stored at each address."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter.data_ptr()] = uses.get(parameter.data_ptr(), 0) + 1
    return uses
