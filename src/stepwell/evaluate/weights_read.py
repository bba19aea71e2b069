"""Bytes of weights that a loaded model reads to decode one token, counted from its tensors.

Every weight is read once a step, whatever its format and however kernels packed it; the embedding
table is not, except where it is the output head as well: a step looks up one row of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_PLAIN_BYTES = 2  # of a bfloat16


@dataclass(frozen=True, slots=True)
class WeightsRead:
    """`total`: bytes a step reads. `linear`: those of linear layers and output head, scales of
    low-bit formats counted; `linear_plain`: what these are in bfloat16."""

    total: int
    linear: int
    linear_plain: int

    def as_dict(self) -> dict[str, int]:
        """For the contestants' protocol."""
        return asdict(self)


def weights_read(model: nn.Module, *, config: Any) -> WeightsRead:
    """Of a loaded model, its kernels swapped in or not. `config`: transformers', of its text part.

    What is neither in a linear layer nor in the head (norms, biases) is taken at its bfloat16
    size; whatever else modules hold, such as padding and scales, counts as linear.
    """
    linear, other = _plain_elements(config)
    total = _held_bytes(model) - _lookup_bytes(model)
    return WeightsRead(total, total - other * _PLAIN_BYTES, linear * _PLAIN_BYTES)


def _plain_elements(config: Any) -> tuple[int, int]:
    """Elements of linear weights (head included), and of all else but the embedding, as
    transformers builds the model."""
    import torch
    from torch import nn
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    matrices = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    linear = sum(weight.numel() for weight in matrices)
    apart = {id(weight) for weight in matrices} | {id(model.get_input_embeddings().weight)}
    return linear, sum(p.numel() for p in model.parameters() if id(p) not in apart)


def _held_bytes(model: nn.Module) -> int:
    """Of all tensors that modules hold, those that several hold once."""
    sizes: dict[int, int] = {}
    for module in model.modules():
        tensors = _tensors(module)
        for tensor in tensors:
            sizes[_address(tensor)] = tensor.numel() * tensor.element_size()
        if not any(tensor.dim() > 1 for tensor in tensors):
            sizes[id(module)] = _opaque_bytes(module)
    return sum(sizes.values())


def _lookup_bytes(model: nn.Module) -> int:
    """Of the embedding table, unless another module holds it too: then it is the head."""
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    address = _address(table.weight)
    for module in model.modules():
        if module is not table and address in map(_address, _tensors(module)):
            return 0
    return int(table.weight.numel() * table.weight.element_size())


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _opaque_bytes(module: nn.Module) -> int:
    """Of a weight that is in another library's layout, which tells its size and nothing else."""
    size = getattr(module, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() or id(tensor)
