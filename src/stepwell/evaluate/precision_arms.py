"""The models that are compared: unquantized, and with weights in low bits.

`ENGINE` replaces the model's modules as `stepwell serve --weights` does and so measures what is
served, kernels and quantized activations included. `SIMULATED` writes quantized and restored
weights into the plain layers, so that everything but the weights stays as in the unquantized model.
bfloat16 on the engine is the control: what other kernels alone do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError
from stepwell.evaluate.precision_settings import Arm, How
from stepwell.evaluate.precision_units import Linear, linear_layers, share_of_bfloat16
from stepwell.evaluate.quality_cache import BLOCK_TOKENS
from stepwell.evaluate.quality_model import Subject
from stepwell.kernels.linear import PackedLinear
from stepwell.kernels.linear.quantize import WeightFormat, dequantize, quantize
from stepwell.kernels.paged_attention import KVFormat
from stepwell.model.attention import ATTENTION_NAME, register_attention
from stepwell.model.load import describe_model, find_checkpoint, read_hf_config
from stepwell.model.pool import block_bytes
from stepwell.model.swap import swap_modules


def open_plain(model: str, *, device: str) -> Subject:
    """A model whose linear layers are transformers' own, in bfloat16.

    Raises ModelError, and ConfigError where something is missing or the checkpoint is quantized
    already.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device here.", hint="--device cpu", param="device")
    folder = find_checkpoint(model)
    hf_config = read_hf_config(folder)
    if getattr(hf_config, "quantization_config", None) is not None:
        raise ConfigError(
            "the checkpoint is quantized already: there is nothing to compare it with.",
            hint="Name the checkpoint that it was made from.",
            param="model",
        )
    register_attention()
    logging.disable_progress_bar()  # the caller shows progress
    plain: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=hf_config,
        dtype=torch.bfloat16,
        attn_implementation=ATTENTION_NAME,
        use_safetensors=True,
        trust_remote_code=False,
    )
    plain = plain.to(device).eval().requires_grad_(requires_grad=False)
    parameters = sum(parameter.numel() for parameter in plain.parameters())
    loaded = describe_model(plain, folder, hf_config, parameters=parameters)
    if loaded.tokenizer is None:
        raise ConfigError("the model has no tokenizer.", hint="Add its files.", param="model")
    return Subject(loaded, folder, list(loaded.tokenizer.encode("")))


def restored_weight(weight: Tensor, format: WeightFormat) -> Tensor:
    """The weight after quantizing and back, in its own dtype."""
    return dequantize(quantize(weight, format=format)).to(weight.dtype)


@contextlib.contextmanager
def simulated(formats: Mapping[Linear, WeightFormat]) -> Iterator[None]:
    """Within, these layers compute with restored weights. The originals come back afterwards, so
    they stay in memory meanwhile; a weight shared with the embedding is changed in the head alone.
    """
    originals: list[tuple[nn.Linear, Tensor]] = []
    try:
        for linear, format in formats.items():
            if format.is_exact or not linear.takes(format):
                continue
            weight = linear.module.weight
            originals.append((linear.module, weight))
            changed = restored_weight(weight, format)
            linear.module.weight = nn.Parameter(changed, requires_grad=False)
        yield
    finally:
        for module, weight in originals:
            module.weight = nn.Parameter(weight, requires_grad=False)


def formats_of(layers: Sequence[Linear], arm: Arm) -> dict[Linear, WeightFormat]:
    """Each layer's format. ConfigError where an exception names no layer."""
    unknown = arm.exceptions.keys() - {linear.name for linear in layers}
    if unknown:
        raise ConfigError(
            f"the weight recipe names {min(unknown)}, which is no linear layer of the model.",
            hint="Make it anew with `stepwell evaluate sensitivity`, or give --no-recipe.",
            param="weights",
        )
    return {linear: arm.exceptions.get(linear.name, arm.weights) for linear in layers}


@dataclass(frozen=True, slots=True)
class Opened:
    """An arm that can run. `share`: bytes of linear layers and head over those in bfloat16."""

    subject: Subject
    share: float
    decisions: tuple[Decision, ...]

    def kv_share(self, form: KVFormat) -> float:
        """Bytes of a pool of this form, over one in the model's dtype."""
        shapes, dtype = list(self.subject.loaded.shapes.values()), torch.bfloat16
        plain, small = (
            block_bytes(shapes, block_size=BLOCK_TOKENS, dtype=dtype, form=one)
            for one in (KVFormat.MODEL, form)
        )
        return small / plain


@contextlib.contextmanager
def open_simulated(plain: Subject, arm: Arm) -> Iterator[Opened]:
    """The unquantized model itself, with restored weights for as long as this is open."""
    layers = linear_layers(plain.loaded.model)
    with simulated(formats_of(layers, arm)):
        share = share_of_bfloat16(layers, arm.weights, arm.exceptions)
        decisions = () if arm.recipe is None else (arm.recipe.decision,)
        yield Opened(plain, share, decisions)


def open_engine(model: str, arm: Arm) -> Opened:
    """A second copy of the model, with its modules replaced as the engine replaces them. Raises
    ConfigError where this machine cannot."""
    subject = open_plain(model, device="cpu")
    loaded = subject.loaded
    layers = linear_layers(loaded.model)
    formats_of(layers, arm)  # for its check
    whole = sum(linear.nbytes(WeightFormat.BFLOAT16) for linear in layers)
    del layers  # they hold the weights
    decisions = swap_modules(
        loaded.model, loaded.shapes, format=arm.weights, exceptions=arm.exceptions
    )
    if arm.recipe is not None:
        decisions = (*decisions, arm.recipe.decision)
    return Opened(subject, linear_bytes(loaded.model) / whole, decisions)


def linear_bytes(model: nn.Module) -> int:
    """Bytes of the weights of all linear layers as they are in memory, scales counted."""
    size = 0
    for module in model.modules():
        if isinstance(module, PackedLinear):
            size += module.nbytes
        elif type(module) is nn.Linear:
            size += module.weight.nbytes
    return size


@contextlib.contextmanager
def open_arm(plain: Subject, arm: Arm, *, model: str) -> Iterator[Opened]:
    """The arm, ready to run, for as long as this is open."""
    if arm.how is How.ENGINE:
        yield open_engine(model, arm)
        return
    with open_simulated(plain, arm) as opened:
        yield opened
