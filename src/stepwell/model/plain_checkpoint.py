"""Loading a checkpoint whose tensors are the model's own, name for name: a copy, nothing more.

transformers' loader renames, merges, shards and quantizes while it loads, and takes half a second
to get ready for that. Most checkpoints need none of it. Those that do are left to it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stepwell.model.architectures import TESTED_MODEL_TYPES
from stepwell.model.attention import ATTENTION_NAME

Shape = tuple[int, ...]


class TensorSource(Protocol):
    """The tensors of a model, by name."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of all tensors."""
        ...

    def read(self, name: str) -> Tensor:
        """One of them, on the CPU."""
        ...


class TensorFiles:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        for path in sorted(folder.glob("*.safetensors")):
            file: Any = safe_open(path, framework="pt")
            for name in file.keys():
                self._files[name] = file
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """May share its memory with the file: copy what outlives it."""
        tensor: Tensor = self._files[name].get_tensor(name)
        return tensor


def load_plain(folder: Path, hf_config: Any, *, dtype: torch.dtype) -> nn.Module | None:
    """The model with its weights in `dtype` on the CPU, or None where transformers has to load it:
    an architecture that no test compares, a quantized checkpoint, other names or shapes, layers
    that want another precision."""
    if getattr(hf_config, "quantization_config", None) is not None:
        return None
    if hf_config.model_type not in TESTED_MODEL_TYPES:
        return None
    return fill_model(hf_config, TensorFiles(folder), folder=folder, dtype=dtype)


def fill_model(
    hf_config: Any, tensors: TensorSource, *, folder: Path, dtype: torch.dtype
) -> nn.Module | None:
    """The model of a configuration with these tensors, or None where they are not its own."""
    model = empty_model(hf_config, dtype=dtype)
    if model._get_dtype_plan(dtype) or not _same(model, tensors.shapes):
        return None
    for name in tensors.shapes:
        _put(model, name, tensors.read(name), dtype)
    model.tie_weights()
    _read_generation_config(model, folder)
    model.config.name_or_path = str(folder)
    return model


def empty_model(hf_config: Any, *, dtype: torch.dtype) -> Any:
    """The model with room for its weights, not filled: memory that is never touched costs none."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights():
        return AutoModelForCausalLM.from_config(
            copy.deepcopy(hf_config),
            dtype=dtype,
            attn_implementation=ATTENTION_NAME,
            trust_remote_code=False,
        )


def _same(model: Any, held: Mapping[str, Shape]) -> bool:
    """Whether these are the model's tensors and no others, tied ones once."""
    tied = set(model.all_tied_weights_keys or ())
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return dict(held) == {name: shape for name, shape in wanted.items() if name not in tied}


def _put(model: nn.Module, name: str, value: Tensor, dtype: torch.dtype) -> None:
    """A copy: the file may be gone or changed while the model runs."""
    owner_name, _, own = name.rpartition(".")
    owner = model.get_submodule(owner_name)
    value = value.to(dtype if value.is_floating_point() else value.dtype, copy=True)
    if own in owner._parameters:
        owner._parameters[own] = nn.Parameter(value, requires_grad=False)
    else:
        owner._buffers[own] = value


def _read_generation_config(model: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
