"""Replacing the linear layers of a loaded model by packed ones, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from stepwell.base.decisions import Decision
from stepwell.kernels import registry
from stepwell.kernels.linear import cpu


@dataclass(frozen=True, slots=True)
class PackReport:
    """What `pack_linears` did. `extra_bytes`: packed copies whose original had to stay."""

    packed: int
    kept: int
    extra_bytes: int
    decision: Decision


def pack_linears(model: nn.Module, *, pack_tied: bool = True) -> PackReport:
    """Replace every `nn.Linear` whose weight can be packed. In place; inference only afterwards.

    Each original is dropped before the next is packed, so the peak is one weight more. A weight
    shared with another module (a head tied to the embedding) has to stay for that module: packing
    it costs its size again, so memory-bound callers pass `pack_tied=False`.
    Subclasses of nn.Linear (quantized ones, adapters) are left alone.
    """
    if registry.kernel_choice() == registry.REFERENCE:
        decision = Decision("kernels.linear", "plain", f"{registry.VARIABLE}=reference")
        return PackReport(packed=0, kept=0, extra_bytes=0, decision=decision)
    uses = _weight_uses(model)
    packed = kept = extra = 0
    reason = "no linear layer"
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            tied = uses[child.weight.data_ptr()] > 1
            refusal = cpu.refusal(child.weight)
            if tied and not pack_tied:
                refusal = "the weight is shared with the embedding"
            if refusal is not None:
                kept, reason = kept + 1, refusal
                continue
            module = cpu.pack(child.weight, child.bias)
            setattr(parent, name, module)
            packed += 1
            extra += module.nbytes if tied else 0
    because = f"{packed} packed, {extra} bytes kept twice"
    because += f", {kept} kept plain: {reason}" if kept or not packed else ""
    decision = Decision("kernels.linear", "packed" if packed else "plain", because)
    return PackReport(packed=packed, kept=kept, extra_bytes=extra, decision=decision)


def _weight_uses(model: nn.Module) -> dict[int, int]:
    """How many modules hold the parameter stored at each address."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter.data_ptr()] = uses.get(parameter.data_ptr(), 0) + 1
    return uses
