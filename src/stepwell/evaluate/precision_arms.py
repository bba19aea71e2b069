"""The models that are compared: unquantized, and with weights in low bits.

`ENGINE` replaces the model's modules as `stepwell serve --weights` does and so measures what is
served, kernels and quantized activations included. `SIMULATED` writes quantized and restored
weights into the plain layers, so that everything but the weights stays as in the unquantized model.
bfloat16 on the engine is the control: what other kernels alone do.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stepwell.base.decisions import Decision
from stepwell.base.errors import ConfigError, unknown_name
from stepwell.evaluate.precision_units import Linear, linear_layers, share_of_bfloat16
from stepwell.evaluate.quality_model import Subject
from stepwell.kernels.linear import PackedLinear
from stepwell.kernels.linear.quantize import WeightFormat, dequantize, quantize
from stepwell.model.attention import ATTENTION_NAME, register_attention
from stepwell.model.load import describe_model, find_checkpoint, read_hf_config
from stepwell.model.swap import swap_modules
from stepwell.model.weight_recipe import Recipe, load_recipe


class How(enum.StrEnum):
    """What an arm's figures were measured on."""

    ENGINE = "engine"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One setting to compare with the unquantized model."""

    weights: WeightFormat
    how: How
    recipe: Recipe | None = None

    @property
    def label(self) -> str:
        """For progress and as a key."""
        return f"{self.weights} ({self.how})"

    @property
    def exceptions(self) -> Mapping[str, WeightFormat]:
        """Layers in higher precision."""
        return {} if self.recipe is None else self.recipe.exceptions


def make_formats(names: Sequence[str]) -> tuple[WeightFormat, ...]:
    """Those of `--weights`. Raises ConfigError for a name that is none, and for no name."""
    for name in names:
        if name not in list(WeightFormat):
            message, hint = unknown_name("weight format", name, list(WeightFormat))
            raise ConfigError(message, hint=hint, param="weights")
    if not names:
        known = ", ".join(WeightFormat)
        raise ConfigError("no format.", hint=f"Known: {known}.", param="weights")
    return tuple(WeightFormat(name) for name in dict.fromkeys(names))


def make_hows(names: Sequence[str], *, device: str) -> tuple[How, ...]:
    """Those of `--on`. Raises ConfigError for a name that is none, for none, and for the engine's
    kernels elsewhere than on the CPU."""
    for name in names:
        if name not in list(How):
            message, hint = unknown_name("way to measure", name, list(How))
            raise ConfigError(message, hint=hint, param="on")
    hows = tuple(how for how in How if how in names)
    if not hows or (How.ENGINE in hows and device != "cpu"):
        reason = "the kernels for low bits are for the CPU" if hows else "nothing to measure on"
        raise ConfigError(f"{reason}.", hint="Give --on simulated.", param="on")
    return hows


def make_arms(
    model: str, formats: Sequence[WeightFormat], *, hows: Sequence[How], with_recipes: bool
) -> tuple[Arm, ...]:
    """For each format, with what `stepwell evaluate sensitivity` left for the checkpoint. There is
    nothing to simulate of bfloat16."""
    folder = find_checkpoint(model)
    return tuple(
        Arm(
            weights=format,
            how=how,
            recipe=load_recipe(folder, format) if with_recipes else None,
        )
        for format in formats
        for how in hows
        if how is How.ENGINE or format is not WeightFormat.BFLOAT16
    )


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
            if format is WeightFormat.BFLOAT16 or not linear.takes(format):
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
