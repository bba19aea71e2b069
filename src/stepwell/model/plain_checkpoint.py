"""Loading a checkpoint whose tensors are the model's own, name for name: a copy, nothing more.

transformers' loader renames, merges, shards and quantizes while it loads, and takes half a second
to get ready for that. Most checkpoints need none of it. Those that do are left to it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.model.architectures import TESTED_MODEL_TYPES
from stepwell.model.attention import ATTENTION_NAME


def load_plain(folder: Path, hf_config: Any, *, dtype: torch.dtype) -> nn.Module | None:
    """The model with its weights in `dtype` on the CPU, or None where transformers has to load it:
    an architecture that no test compares, a quantized checkpoint, other names or shapes, layers
    that want another precision."""
    if hf_config.model_type not in TESTED_MODEL_TYPES:
        return None
    if getattr(hf_config, "quantization_config", None) is not None:
        return None
    places = _places(folder)
    model = _empty(hf_config, dtype)
    if model._get_dtype_plan(dtype) or not _same(model, places):
        return None
    _copy(model, places, dtype)
    model.tie_weights()
    _read_generation_config(model, folder)
    model.config.name_or_path = str(folder)
    return model


def _places(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of each tensor."""
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                found[name] = (path, tuple(file.get_slice(name).get_shape()))
    return found


def _empty(hf_config: Any, dtype: torch.dtype) -> Any:
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


def _same(model: Any, places: dict[str, tuple[Path, tuple[int, ...]]]) -> bool:
    """Whether the files hold the model's tensors and no others, tied ones once."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys or ())
    held = {name: shape for name, (_, shape) in places.items()}
    return held == {name: shape for name, shape in wanted.items() if name not in tied}


def _copy(
    model: nn.Module, places: dict[str, tuple[Path, tuple[int, ...]]], dtype: torch.dtype
) -> None:
    from safetensors import safe_open

    for path in sorted({path for path, _ in places.values()}):
        with safe_open(path, framework="pt") as file:
            for name in [n for n, (held_by, _) in places.items() if held_by == path]:
                _put(model, name, file.get_tensor(name), dtype)


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
