"""From a folder, a config.json, a safetensors header or a name to a ModelSpec."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.base.errors import CheckpointNotFound, UnknownArchitecture, unknown_name
from stepwell.plan import catalogue, families, headers
from stepwell.plan.architecture import AttentionKind, ModelSpec, WeightPrecision
from stepwell.plan.fields import Fields

_LARGEST_CONFIG = 16 << 20
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def read_model(source: str) -> ModelSpec:
    """What `source` names: a folder, a config.json, a safetensors file or index, or a model of the
    catalogue. Raises CheckpointNotFound, UnknownArchitecture."""
    path = Path(source).expanduser()
    known = catalogue.find(source)
    is_checkpoint = path.is_file() or (path / "config.json").is_file()
    if is_checkpoint or (known is None and path.exists()):
        return _read_path(path)
    if known is not None:
        spec = spec_of(known.config, name=known.name, source=known.source)
        place = known.aliases[0] if known.aliases else known.name
        return dataclasses.replace(spec, path=place, notes=(*known.notes, *spec.notes))
    message, hint = unknown_name("model", source, catalogue.names())
    raise CheckpointNotFound(message, hint=f"{hint} Or a folder or config.json.", param="model")


def spec_of(config: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """From the contents of a config.json. Raises UnknownArchitecture."""
    text, notes = _text_part(config)
    model_type = str(text.get("model_type") or config.get("model_type") or "")
    if not model_type:
        raise UnknownArchitecture(
            f"{source} names no model_type.", hint="It is not the config.json of a language model."
        )
    dtype_bytes = _dtype_bytes(config, text)
    fields = Fields.of(model_type, text, dtype_bytes=dtype_bytes)
    layers, weights = _build(fields)
    return ModelSpec(
        name=name,
        model_type=model_type,
        hidden_size=fields.number("hidden_size"),
        vocab_size=fields.number("vocab_size"),
        max_positions=fields.optional("max_position_embeddings") or 0,
        layers=layers,
        weights=weights,
        tied=fields.flag("tie_word_embeddings", True),
        source=source,
        path=name,
        dtype_bytes=dtype_bytes,
        native=_native(config),
        notes=(*notes, *_quantized_note(config)),
    )


def _build(fields: Fields) -> families.Built:
    """Layers and weights, none of them empty. Raises UnknownArchitecture, also for fields of kinds
    that no configuration of this model has."""
    try:
        layers, weights = families.build(fields)
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise fields.refused(f"its fields do not fit together ({error})") from error
    empty = [part.name for part in weights if not part.parameters]
    empty += [
        "a head of K and V"
        for layer in set(layers)
        if layer.kind is not AttentionKind.NONE
        and not min(layer.q_heads, layer.kv_heads, layer.key_dim, layer.value_dim)
    ]
    if empty or not layers:
        raise fields.refused(f"{(empty or ['the list of layers'])[0]} would be empty")
    return layers, weights


def _read_path(path: Path) -> ModelSpec:
    if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
        return _with_header(path.parent, path)
    if path.is_dir():
        return _with_header(path, path)
    return spec_of(_load(path), name=path.parent.name or path.stem, source=str(path))


def _with_header(folder: Path, weights: Path) -> ModelSpec:
    """The configuration in `folder`, with the bytes that the weights' headers state."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointNotFound(
            f"{folder} has no config.json, which says what the layers keep of the past.",
            hint="Put the model's config.json beside the weights.",
            param="model",
        )
    spec = spec_of(_load(config), name=folder.resolve().name, source=str(config))
    return headers.attach(dataclasses.replace(spec, path=str(folder)), weights)


def _load(path: Path) -> Mapping[str, Any]:
    if path.stat().st_size > _LARGEST_CONFIG:
        raise UnknownArchitecture(f"{path} is too large for a configuration.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnknownArchitecture(f"{path} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise UnknownArchitecture(f"{path} is no configuration.")
    return config


def _text_part(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The language model's own fields, and a note where there is more beside it."""
    for name in _TEXT_PARTS:
        part = config.get(name)
        if isinstance(part, dict):
            merged = {**part}
            if "tie_word_embeddings" in config:
                merged.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
            others = sorted(key for key in config if key.endswith("_config") and key != name)
            others = [key for key in others if key not in ("quantization_config",)]
            note = f"only the language model is counted, not {', '.join(others)}" if others else ""
            return merged, (note,) if note else ()
    return config, ()


def _dtype_bytes(config: Mapping[str, Any], text: Mapping[str, Any]) -> int:
    for part in (text, config):
        name = part.get("dtype") or part.get("torch_dtype")
        if name is not None:
            return _DTYPE_BYTES.get(str(name), 2)
    return 2


def _method(config: Mapping[str, Any]) -> str:
    settings = config.get("quantization_config")
    return str(settings.get("quant_method", "")) if isinstance(settings, dict) else ""


def _quantized_note(config: Mapping[str, Any]) -> tuple[str, ...]:
    """For checkpoints whose packing is not counted here."""
    method = _method(config)
    if method in ("", "fp8", "mxfp4"):
        return ()
    return (f"quantized by {method}: weights are counted as if they were not",)


def _native(config: Mapping[str, Any]) -> WeightPrecision:
    method = _method(config)
    known = {"fp8": WeightPrecision.FP8, "mxfp4": WeightPrecision.MXFP4}
    return known.get(method, WeightPrecision.BF16)
