"""Weights of the planner's shipped models against transformers' own models of the same
configuration, built on the meta device: every tensor with its shape, none with memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.plan import catalogue
from stepwell.plan.memory import weight_bytes
from stepwell.plan.read import read_model


@dataclass(frozen=True, slots=True)
class WeightRow:
    """Bytes of one model. `built` None: transformers has no such model, `reason` says which."""

    model: str
    model_type: str
    planned: int
    built: int | None
    reason: str = ""

    @property
    def is_exact(self) -> bool:
        """To the byte."""
        return self.planned == self.built


def weight_rows(names: Sequence[str]) -> Iterator[WeightRow]:
    """One for each shipped model, in the precision of its published checkpoint's bfloat16, float16
    or float32 form. The first takes some seconds: transformers is imported."""
    from transformers import CONFIG_MAPPING

    for name in names:
        known = catalogue.models()[name]
        model_type = str(known.config["model_type"])
        spec = read_model(name)
        planned = weight_bytes(spec)
        if model_type in CONFIG_MAPPING:
            built = _built_bytes(known.config, dtype_bytes=spec.dtype_bytes)
            yield WeightRow(name, model_type, planned, built)
        else:
            reason = f"transformers has no {model_type}"
            yield WeightRow(name, model_type, planned, None, reason)


def one_of_each_type() -> list[str]:
    """The first shipped model of each model type that transformers has."""
    found: dict[str, str] = {}
    for name, known in catalogue.models().items():
        found.setdefault(str(known.config["model_type"]), name)
    return list(found.values())


def hf_config(fields: dict[str, Any]) -> Any:
    """transformers' configuration of these fields of a config.json."""
    from transformers import CONFIG_MAPPING

    others = {
        key: value
        for key, value in fields.items()
        if key not in ("model_type", "quantization_config", "torch_dtype")
    }
    return CONFIG_MAPPING[fields["model_type"]](**others)


def _built_bytes(fields: Any, *, dtype_bytes: int) -> int:
    """All that `from_pretrained` would hold: parameters, and buffers that are saved; in float32
    what the class wants so whatever the rest is in."""
    import torch
    from transformers import AutoModelForCausalLM

    config = hf_config(dict(fields)).get_text_config()
    dtype = torch.float32 if dtype_bytes == 4 else torch.bfloat16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    wide = tuple(model._keep_in_fp32_modules_strict or ())
    tensors = {id(t): (name, t) for name, t in model.state_dict(keep_vars=True).items()}
    return sum(
        tensor.numel() * (4 if any(part in name for part in wide) else tensor.element_size())
        for name, tensor in tensors.values()
    )
