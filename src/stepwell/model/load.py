"""Find a checkpoint, refuse what cannot be served or is unsafe, load it, and learn its layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stepwell.base.config import ModelConfig
from stepwell.base.decisions import Decision
from stepwell.base.errors import (
    CheckpointNotFound,
    ModelError,
    UnsafeCheckpoint,
    UnsupportedArchitecture,
)
from stepwell.hardware.account import grown
from stepwell.kernels.linear import PackedLinear, WeightFormat
from stepwell.model.architectures import TESTED_MODEL_TYPES, refuse_unsupported
from stepwell.model.attention import (
    LayerShape,
    probe_layers,
    register_attention,
)
from stepwell.model.checkpoint import build_model
from stepwell.model.checkpoint_formats import GGUF_SUFFIX, check_format, quantization_of
from stepwell.model.gguf import read_gguf_config
from stepwell.model.swap import swap_modules
from stepwell.model.tokenizer import Tokenizer
from stepwell.model.weight_recipe import load_recipe

if TYPE_CHECKING:
    from stepwell.model.streaming.streamer import Streamer

HOUSE = "house"
_WANTED_FILES = ["*.json", "*.safetensors", "*.model", "*.jinja"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is served, for people and for the API."""

    name: str
    architecture: str
    parameters: int
    weight_bytes: int
    dtype: str
    device: str
    vocab_size: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `model` is a transformers causal language model; `shapes` in the order
    its layers run. `streamer`: None where all weights stay in memory. `precision`: which
    weights were quantized and how, empty for none: what the model computes depends on it."""

    model: Any
    hf_config: Any
    shapes: Mapping[nn.Module, LayerShape]
    tokenizer: Tokenizer | None
    folder: Path | None
    eos_token_ids: frozenset[int]
    parameters: int
    decisions: tuple[Decision, ...]
    streamer: Streamer | None = None
    precision: str = ""

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in memory."""
        return weight_bytes(self.model) if self.streamer is None else self.streamer.nbytes


def find_checkpoint(path: str) -> Path:
    """Folder of a checkpoint: `house`, a local folder, or a Hugging Face name already in the
    local cache or reachable; a GGUF file is its own. Raises CheckpointNotFound."""
    if path == HOUSE:
        for parent in Path(__file__).resolve().parents:
            if (parent / "models" / HOUSE / "config.json").is_file():
                return parent / "models" / HOUSE
        raise CheckpointNotFound(
            "the house model is not beside this installation.",
            hint="Clone the repository, or name a checkpoint folder.",
        )
    folder = Path(path).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        raise CheckpointNotFound(
            f"{folder} has no config.json.", hint="Name a folder in Hugging Face layout."
        )
    if folder.suffix == GGUF_SUFFIX:
        if folder.is_file():
            return folder
        raise CheckpointNotFound(f"there is no file {path}.", hint="Name a GGUF file.")
    if folder.is_absolute() or path.count("/") != 1:
        raise CheckpointNotFound(
            f"there is no folder {path}.",
            hint="Name a checkpoint folder, `house`, or an owner/name of the Hugging Face hub.",
        )
    return _download(path)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"]
            )
        )
    except Exception as error:  # the hub raises a dozen kinds; all mean: not to be had
        raise CheckpointNotFound(
            f"{name} is neither a folder here nor to be had from the hub: {type(error).__name__}.",
            hint="Check the name and the network, or name a local folder.",
        ) from error


def read_hf_config(folder: Path) -> Any:
    """The checkpoint's configuration, refusing unsafe and unsupported ones by name."""
    from transformers import AutoConfig

    settings = quantization_of(folder)
    if settings is not None:
        check_format(settings)
    if folder.suffix == GGUF_SUFFIX:
        hf_config = read_gguf_config(folder)
        refuse_unsupported(hf_config)
        return hf_config
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_type = raw.get("model_type", "?")
    try:
        hf_config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        if "auto_map" in raw:
            raise UnsafeCheckpoint(
                f"{model_type!r} needs modelling code from the checkpoint, which is never run.",
                hint="Use an architecture that transformers ships.",
            ) from error
        raise UnsupportedArchitecture(
            f"transformers does not know the architecture {model_type!r}.",
            hint=f"Tested here: {', '.join(sorted(TESTED_MODEL_TYPES))}.",
        ) from error
    refuse_unsupported(hf_config)
    return hf_config


def load_model(
    config: ModelConfig, folder: Path, hf_config: Any, *, dtype: torch.dtype, device: torch.device
) -> LoadedModel:
    """Load weights (safetensors only, or random ones) with our attention, and probe the layers."""
    register_attention()
    model, read = build_model(config, folder, hf_config, dtype=dtype)
    model = model.to(device).eval()
    model.requires_grad_(requires_grad=False)
    parameters = sum(p.numel() for p in model.parameters())
    loaded = describe_model(model, folder, hf_config, parameters=parameters)
    loaded = _swap(config, loaded, folder)
    decisions = (*read, *loaded.decisions)
    return replace(loaded, folder=None if config.random_weights else folder, decisions=decisions)


def _swap(config: ModelConfig, loaded: LoadedModel, folder: Path) -> LoadedModel:
    """Replace the modules that we compute ourselves, with weights as the settings ask for."""
    precision = choose_precision(config, folder)
    swapped = swap_modules(
        loaded.model, loaded.shapes, format=precision.format, exceptions=precision.exceptions
    )
    return replace(loaded, decisions=(*swapped, *precision.decisions), precision=precision.identity)


@dataclass(frozen=True, slots=True)
class Precision:
    """How linear layers are kept: one format, and others for single layers, by name."""

    format: WeightFormat
    exceptions: Mapping[str, WeightFormat]
    decisions: tuple[Decision, ...]

    @property
    def identity(self) -> str:
        """Differs where computed numbers do; empty for weights as they are."""
        if self.format.is_exact:
            return ""
        named = sorted((name, str(kept)) for name, kept in self.exceptions.items())
        return json.dumps([str(self.format), named])


def choose_precision(config: ModelConfig, folder: Path) -> Precision:
    """What `model.weights` asks for, and the checkpoint's recipe where there is one. Raises
    ConfigError for a damaged recipe."""
    if config.weights == "checkpoint":
        return Precision(WeightFormat.BFLOAT16, {}, ())
    format = WeightFormat(config.weights)
    if format.is_exact:
        return Precision(format, {}, ())
    recipe = load_recipe(None if config.random_weights else folder, format)
    if recipe is not None:
        return Precision(format, recipe.exceptions, (recipe.decision,))
    hint = "no recipe: `stepwell evaluate sensitivity` finds layers that need more bits"
    return Precision(format, {}, (Decision(f"weights.{format}.exceptions", "none", hint),))


def describe_model(model: Any, folder: Path, hf_config: Any, *, parameters: int) -> LoadedModel:
    """Probe a model that has its weights, and find its tokenizer. Raises
    UnsupportedArchitecture."""
    shapes = _probe(model, hf_config)
    expected = hf_config.get_text_config().num_hidden_layers
    if len(shapes) != expected:
        raise UnsupportedArchitecture(
            f"{hf_config.model_type!r} has {expected} layers of which {len(shapes)} attend.",
            hint="Layers with recurrent or convolutional state cannot be paged.",
        )
    eos = _eos_token_ids(model, hf_config)
    tokenizer = _load_tokenizer(folder, eos)
    if tokenizer is not None:
        eos = tokenizer.eos_token_ids
    return LoadedModel(
        model=model,
        hf_config=hf_config,
        shapes=shapes,
        tokenizer=tokenizer,
        folder=folder,
        eos_token_ids=eos,
        parameters=parameters,
        decisions=(),
    )


def _probe(model: nn.Module, hf_config: Any) -> dict[nn.Module, LayerShape]:
    """The layers' shapes; what the probe finds out of order is a matter of the architecture."""
    try:
        return probe_layers(model)
    except ModelError as error:
        raise UnsupportedArchitecture(
            f"{hf_config.model_type!r}: {error.message}",
            hint=f"Tested here: {', '.join(sorted(TESTED_MODEL_TYPES))}.",
        ) from error


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once, and of packed weights."""
    tensors = {t.data_ptr(): t for t in [*model.parameters(), *model.buffers()]}
    linears = (m for m in model.modules() if isinstance(m, PackedLinear))
    packed = sum(m.nbytes for m in linears if not m.is_buffered)
    return packed + sum(t.numel() * t.element_size() for t in tensors.values())


def _load_tokenizer(folder: Path, eos: frozenset[int]) -> Tokenizer | None:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    if folder.suffix != GGUF_SUFFIX and not any((folder / name).is_file() for name in names):
        return None
    with grown("tokenizer"):
        return Tokenizer.load(folder, eos_token_ids=eos)


def _eos_token_ids(model: nn.Module, hf_config: Any) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    value = getattr(generation, "eos_token_id", None)
    if value is None:
        value = getattr(hf_config.get_text_config(), "eos_token_id", None)
    if value is None:
        return frozenset()
    return frozenset(value if isinstance(value, list) else [value])
