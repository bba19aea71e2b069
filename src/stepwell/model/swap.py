"""What a loaded model's modules are replaced with: the one table.

    every nn.Linear          packed, in bfloat16 or in low bits      kernels/linear
    RMS norms of one kind    compiled                                kernels/norm
    layers of one shape      one program of kernels                  model/fused

What is not in the table runs as transformers wrote it. `STEPWELL_KERNELS=reference` replaces
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from stepwell.base.decisions import Decision
from stepwell.hardware.account import grown
from stepwell.kernels import registry
from stepwell.kernels.linear import WeightFormat, pack_linears
from stepwell.model.attention import LayerShape

if TYPE_CHECKING:
    from stepwell.model.fused.stack import Streams

# Classes that compute weight * (x / root mean square) with the product in the model's dtype.
RMS_NORMS = frozenset(
    {
        "GraniteRMSNorm",
        "LlamaRMSNorm",
        "MistralRMSNorm",
        "MixtralRMSNorm",
        "Phi3RMSNorm",
        "Qwen2RMSNorm",
        "Qwen3MoeRMSNorm",
        "Qwen3RMSNorm",
    }
)


def swap_modules(
    model: nn.Module,
    shapes: Mapping[nn.Module, LayerShape],
    *,
    format: WeightFormat = WeightFormat.BFLOAT16,
    exceptions: Mapping[str, WeightFormat] | None = None,
) -> tuple[Decision, ...]:
    """Replace what the table says, in place; `exceptions`: formats of single linear layers, by
    name. Raises ConfigError where low bits were asked for and cannot be had."""
    linears = pack_linears(model, format=format, exceptions=exceptions).decision
    norms = swap_norms(model)
    if linears.value == "plain" or registry.kernel_choice() == registry.REFERENCE:
        return (linears, norms)  # before numba is imported for nothing
    from stepwell.model.fused.stack import fuse_layers

    return (linears, norms, fuse_layers(model, shapes))


def swap_streamed(
    model: nn.Module, shapes: Mapping[nn.Module, LayerShape], streams: Streams
) -> tuple[Decision, ...]:
    """The same for a model whose linear layers are packed already and whose weights move."""
    norms = swap_norms(model)
    if norms.value == "plain":
        return (norms,)  # before numba is imported for nothing
    from stepwell.model.fused.stack import fuse_layers

    return (norms, fuse_layers(model, shapes, streams=streams))


def swap_norms(model: nn.Module) -> Decision:
    """Replace RMS norms of the known kind, in place."""
    with grown("kernels"):  # which imports numba
        return _swap_norms(model)


def _swap_norms(model: nn.Module) -> Decision:
    name = "kernels.norm"
    if registry.kernel_choice() == registry.REFERENCE:
        return Decision(name, "plain", f"{registry.VARIABLE}=reference")
    swapped, reason = 0, "no norm of the known kind"
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if type(child).__name__ not in RMS_NORMS:
                continue
            found: Any = child
            if found.weight.device.type != "cpu":
                reason = f"the weight is on {found.weight.device.type}"
                continue
            from stepwell.kernels.norm import cpu
            from stepwell.kernels.norm.module import CompiledRmsNorm

            refused = cpu.refusal(found.weight)
            if refused is not None:
                reason = refused
                continue
            epsilon = found.variance_epsilon
            setattr(parent, child_name, CompiledRmsNorm(found.weight, epsilon=epsilon))
            swapped += 1
    if not swapped:
        return Decision(name, "plain", reason)
    return Decision(name, "compiled", f"{swapped} norms")
