"""Ready-made quantized checkpoints: which are read, how, and why others are refused.

One table. What can be read ends up as plain weights in the model's precision, so that the engine's
own kernels run it like any other checkpoint (and `model.weights` may quantize it anew). That takes
the memory of an unquantized model, and the record of decisions says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepwell.base.decisions import Decision
from stepwell.base.errors import UnsupportedCheckpointFormat

GGUF_SUFFIX = ".gguf"
EXTRA = "pip install 'stepwell[formats]'"


class Way(StrEnum):
    """How weights become plain."""

    WHILE_LOADING = "transformers dequantizes while it loads"
    AFTER_LOADING = "transformers loads, then dequantizes"
    TENSORS = "tensors that know how to dequantize themselves"
    OURS = "unpacked here"
    GGUF = "transformers reads the file's blocks"


@dataclass(frozen=True, slots=True)
class Format:
    """One `quant_method` of config.json. `packages`: import names that reading needs."""

    method: str
    way: Way
    packages: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    form.method: form
    for form in (
        Format("compressed-tensors", Way.WHILE_LOADING, ("compressed_tensors",)),
        Format("fp8", Way.WHILE_LOADING, ("accelerate",)),
        Format("mxfp4", Way.WHILE_LOADING),
        Format("bitsandbytes", Way.AFTER_LOADING, ("bitsandbytes", "accelerate")),
        Format("torchao", Way.TENSORS, ("torchao",)),
        Format("gptq", Way.OURS),
        Format("awq", Way.OURS),
        Format("gguf", Way.GGUF, ("gguf",)),
    )
}
# Kinds of compressed-tensors that tests compare; the others pack, prune or rotate in other ways.
_COMPRESSED = ("float-quantized", "int-quantized", "pack-quantized")
# Names of tensors that concern activations and KV, which are not quantized here.
_OF_ACTIVATIONS = ("input_scale", "activation_scale", "output_scale", "k_scale", "v_scale")
_PLAIN_INSTEAD = "Load the unquantized checkpoint with --weights int8 or int4."
_PIP_NAMES = {"compressed_tensors": "compressed-tensors"}


def quantization_of(path: Path) -> dict[str, Any] | None:
    """The checkpoint's `quantization_config`, None where it is not quantized. `path`: a folder, or
    a GGUF file."""
    if path.suffix == GGUF_SUFFIX:
        return {"quant_method": "gguf"}
    raw = json.loads((path / "config.json").read_text(encoding="utf-8"))
    settings = raw.get("quantization_config") or raw.get("compression_config")
    if not isinstance(settings, dict):
        return None
    if not settings.get("quant_method"):  # older bitsandbytes
        bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
        settings = settings | {"quant_method": "bitsandbytes" if bits else "?"}
    return settings


def check_format(
    settings: Mapping[str, Any], *, installed: Callable[[str], Any] = find_spec
) -> Format:
    """The format that these settings name. Raises UnsupportedCheckpointFormat with what to do."""
    method = str(settings.get("quant_method"))
    form = FORMATS.get(method)
    if form is None:
        raise UnsupportedCheckpointFormat(
            f"no reader for weights quantized by {method!r}.",
            hint=f"Readable are: {', '.join(sorted(FORMATS))}. {_PLAIN_INSTEAD}",
        )
    if method == "compressed-tensors":
        _check_compressed(settings)
    missing = [name for name in form.packages if installed(name) is None]
    if missing:
        names = ", ".join(_PIP_NAMES.get(name, name) for name in missing)
        raise UnsupportedCheckpointFormat(
            f"reading {method} weights needs {names}, not installed here.", hint=f"{EXTRA}."
        )
    return form


def _check_compressed(settings: Mapping[str, Any]) -> None:
    """What transformers would dequantize wrongly: it takes one scheme for all layers, and knows
    neither rotations nor pruned storage."""
    groups = settings.get("config_groups") or {}
    sparsity = (settings.get("sparsity_config") or {}).get("format", "dense")
    reason = ""
    if settings.get("format") not in _COMPRESSED:
        reason = f"kind {settings.get('format')!r}, readable are {', '.join(_COMPRESSED)}"
    elif len(groups) != 1:
        reason = f"{len(groups)} groups of layers with schemes of their own"
    elif settings.get("transform_config"):
        reason = "weights that are rotated (transform_config)"
    elif sparsity != "dense":
        reason = f"pruned weights ({sparsity})"
    if reason:
        raise UnsupportedCheckpointFormat(f"compressed-tensors with {reason}.", hint=_PLAIN_INSTEAD)


def check_blocks(settings: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """fp8: transformers derives the blocks from the number of scales, which is right only where
    they divide the weight. Raises UnsupportedCheckpointFormat."""
    block = settings.get("weight_block_size")
    for name, scales in shapes.items():
        owner, _, part = name.rpartition(".")
        weight = shapes.get(f"{owner}.weight")
        if part != "weight_scale_inv" or weight is None or block is None or len(scales) != 2:
            continue
        if weight != (scales[0] * block[0], scales[1] * block[1]):
            raise UnsupportedCheckpointFormat(
                f"{owner}.weight is {weight}, which blocks of {tuple(block)} do not divide.",
                hint=_PLAIN_INSTEAD,
            )


def check_names(info: Mapping[str, Any], *, method: str) -> None:
    """Refuse a model that lacked tensors, or had no place for some that weights depend on. `info`:
    transformers' loading info."""
    odd = [f"{name} has no place" for name in sorted(info.get("unexpected_keys") or ())]
    odd = [text for text in odd if not text.split()[0].endswith(_OF_ACTIVATIONS)]
    odd += [f"{name} is missing" for name in sorted(info.get("missing_keys") or ())]
    odd += [f"{key} has another shape" for key in (info.get("mismatched_keys") or ())]
    odd += [str(text) for text in (info.get("error_msgs") or ())]
    if odd:
        raise UnsupportedCheckpointFormat(
            f"{method}: {len(odd)} tensors do not fit: {'; '.join(odd[:3])}.", hint=_PLAIN_INSTEAD
        )


def check_plain(model: nn.Module, plain: nn.Module, *, method: str) -> None:
    """Refuse a loaded model that would compute otherwise than plain layers do: other classes than
    those of the unquantized model, replaced forward functions, or weights that are not floats."""
    expected = {name: type(module) for name, module in plain.named_modules()}
    found = {name: type(module) for name, module in model.named_modules()}
    odd = [
        f"{name} is {found[name].__name__}" if name in found else f"{name} is missing"
        for name in expected
        if found.get(name) is not expected[name]
    ]
    odd += [f"{name} is not of this architecture" for name in found if name not in expected]
    odd += [
        f"{name} has a forward of its own"
        for name, module in model.named_modules()
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    ]
    odd += [
        f"{name} is {type(tensor).__name__} of {tensor.dtype}"
        for name, tensor in model.named_parameters()
        if not _is_plain(tensor) or tensor.is_meta
    ]
    if odd:
        raise UnsupportedCheckpointFormat(
            f"{method}: {len(odd)} parts of the model are not what plain weights would give: "
            f"{'; '.join(odd[:3])}.",
            hint=_PLAIN_INSTEAD,
        )


def _is_plain(tensor: nn.Parameter) -> bool:
    return type(tensor.data) is torch.Tensor and tensor.dtype in (
        torch.bfloat16,
        torch.float16,
        torch.float32,
    )


def format_decision(form: Format, settings: Mapping[str, Any], *, dtype: torch.dtype) -> Decision:
    """What is done, for `--explain`."""
    known = {
        key: settings[key]
        for key in ("bits", "group_size", "fmt", "format", "version", "weight_block_size")
        if settings.get(key) is not None
    }
    details = f" ({', '.join(f'{key} {value}' for key, value in known.items())})" if known else ""
    kind = str(dtype).removeprefix("torch.")
    because = (
        f"{form.way}{details}; weights are {kind} in memory and computed like any others, "
        "activations are not quantized"
    )
    return Decision("model.checkpoint_format", form.method, because)
