"""The transformers model of a checkpoint, with its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepwell.base.config import ModelConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import UnsafeCheckpoint, UnsupportedCheckpointFormat
from stepwell.hardware.account import grown
from stepwell.model.attention import ATTENTION_NAME
from stepwell.model.checkpoint_formats import (
    Format,
    Way,
    check_blocks,
    check_format,
    check_names,
    check_plain,
    format_decision,
    quantization_of,
)
from stepwell.model.gguf import load_gguf
from stepwell.model.packed_integers import Packing, UnpackedTensors
from stepwell.model.plain_checkpoint import TensorFiles, empty_model, fill_model, load_plain
from stepwell.model.quick_imports import import_meta_operators


def build_model(
    config: ModelConfig, path: Path, hf_config: Any, *, dtype: torch.dtype
) -> tuple[Any, tuple[Decision, ...]]:
    """On the CPU, with our attention, in `dtype`; and what was decided about its format. `path`: a
    folder, or a GGUF file. Raises UnsafeCheckpoint where the weights are pickled,
    UnsupportedCheckpointFormat where they are quantized in a way that is not read here."""
    with grown("imports"):
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

    logging.disable_progress_bar()  # the caller shows progress
    if config.random_weights:
        _get_ready()
        model = AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, attn_implementation=ATTENTION_NAME, trust_remote_code=False
        )
        return model, ()
    settings = quantization_of(path)
    if settings is not None:
        form = check_format(settings)
        if form.method == "fp8":
            check_blocks(settings, TensorFiles(path).shapes)
        return _quantized(form, settings, path, hf_config, dtype)
    _refuse_pickled(path)
    plain = load_plain(path, hf_config, dtype=dtype)
    if plain is None:
        plain, _ = _by_transformers(path, hf_config, dtype)
    return plain, ()


def _quantized(
    form: Format, settings: Mapping[str, Any], path: Path, hf_config: Any, dtype: torch.dtype
) -> tuple[Any, tuple[Decision, ...]]:
    if form.way is not Way.GGUF:
        _refuse_pickled(path)
    plain_config = copy.deepcopy(hf_config)
    if hasattr(plain_config, "quantization_config"):
        del plain_config.quantization_config
    if form.way is Way.OURS:
        model = _unpacked(form, settings, path, plain_config, dtype)
    else:
        model = _dequantized(form, path, hf_config, dtype)
        check_plain(model, empty_model(plain_config, dtype=dtype), method=form.method)
        model = model.to(dtype)
    return model, (format_decision(form, settings, dtype=dtype),)


def _unpacked(
    form: Format, settings: Mapping[str, Any], path: Path, plain_config: Any, dtype: torch.dtype
) -> nn.Module:
    tensors = UnpackedTensors(TensorFiles(path), packing_of(form.method, settings))
    model = fill_model(plain_config, tensors, folder=path, dtype=dtype)
    if model is None:
        raise UnsupportedCheckpointFormat(
            f"the unpacked {form.method} tensors are not those of a {plain_config.model_type!r} "
            "model of this configuration.",
            hint="Load the unquantized checkpoint with --weights int8 or int4.",
        )
    return model


def packing_of(method: str, settings: Mapping[str, Any]) -> Packing:
    """How a GPTQ or AWQ checkpoint packs. Raises UnsupportedCheckpointFormat."""
    bits, group = int(settings.get("bits", 0)), int(settings.get("group_size", -1))
    if method == "awq":
        version = str(settings.get("version", "gemm")).lower()
        if bits == 4 and version == "gemm":
            return Packing(bits=4, group=group, zero_offset=0, along_columns=True)
        found = f"{bits} bits, version {version}"
        raise UnsupportedCheckpointFormat(
            f"AWQ weights with {found} are not read.", hint="Readable: 4 bits, version gemm."
        )
    offsets = {"gptq": 1, "gptq_v2": 0}
    stored = str(settings.get("checkpoint_format", "gptq")).lower()
    if bits in (2, 4, 8) and stored in offsets:
        return Packing(bits=bits, group=group, zero_offset=offsets[stored], along_columns=False)
    raise UnsupportedCheckpointFormat(
        f"GPTQ weights with {bits} bits, checkpoint_format {stored} are not read.",
        hint="Readable: 2, 4 or 8 bits, checkpoint_format gptq or gptq_v2.",
    )


def _dequantized(form: Format, path: Path, hf_config: Any, dtype: torch.dtype) -> Any:
    """Read by transformers' quantizer of this format."""
    if form.way is Way.WHILE_LOADING:
        hf_config = copy.deepcopy(hf_config)
        hf_config.quantization_config = {**_as_dict(hf_config), "dequantize": True}
    if form.way is Way.GGUF:
        _get_ready()
        model, info = load_gguf(path, dtype=dtype)
    else:
        model, info = _by_transformers(path, hf_config, dtype)
    check_names(info, method=form.method)
    if form.way is Way.AFTER_LOADING:
        return model.dequantize(dtype)
    if form.way is Way.TENSORS:
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None and hasattr(parameter, "dequantize"):
                    _replace(module, name, parameter, dtype)
    return model


def _replace(module: nn.Module, name: str, parameter: Any, dtype: torch.dtype) -> None:
    if type(parameter.data) is not torch.Tensor:
        value = parameter.dequantize().to(dtype)
        module._parameters[name] = nn.Parameter(value, requires_grad=False)


def _as_dict(hf_config: Any) -> dict[str, Any]:
    settings = hf_config.quantization_config
    return dict(settings if isinstance(settings, dict) else settings.to_dict())


def _by_transformers(path: Path, hf_config: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, and which tensors of the files it had no place for, or lacked."""
    from transformers import AutoModelForCausalLM

    _get_ready()
    return AutoModelForCausalLM.from_pretrained(
        path,
        config=hf_config,
        dtype=dtype,
        attn_implementation=ATTENTION_NAME,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )


def _get_ready() -> None:
    """For transformers' own loading and initializing, which use the meta device."""
    with grown("imports"):
        import_meta_operators()


def _refuse_pickled(folder: Path) -> None:
    if not any(folder.glob("*.safetensors")):
        raise UnsafeCheckpoint(
            f"{folder} has no safetensors weights; pickled ones are never loaded.",
            hint="Convert them with transformers' save_pretrained.",
        )
