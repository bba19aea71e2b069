"""What the short way of loading gives is what transformers' loader gives, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import ARCHITECTURES

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from stepwell.model.attention import ATTENTION_NAME, register_attention  # noqa: E402
from stepwell.model.load import read_hf_config  # noqa: E402
from stepwell.model.plain_checkpoint import load_plain  # noqa: E402

Checkpoint = Callable[..., Path]
MERGED_AT_LOAD = {"mixtral", "qwen3_moe", "gpt_oss"}
"""Checkpoints hold each expert by itself, or layers that want another precision."""


def by_transformers(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    register_attention()
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=ATTENTION_NAME
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_equal_to_transformers(model_type: str, dtype: torch.dtype, checkpoint: Checkpoint) -> None:
    folder = checkpoint(model_type)
    register_attention()
    model = load_plain(folder, read_hf_config(folder), dtype=dtype)
    if model is None:
        assert model_type in MERGED_AT_LOAD
        return
    same(model, by_transformers(folder, dtype))


def test_tied_head_is_stored_once(checkpoint: Checkpoint) -> None:
    folder = checkpoint("qwen2", tie_word_embeddings=True)
    register_attention()
    model = load_plain(folder, read_hf_config(folder), dtype=torch.float32)
    assert model is not None
    assert model.lm_head.weight is model.model.embed_tokens.weight
    same(model, by_transformers(folder, torch.float32))


@pytest.mark.parametrize("change", ["more", "fewer", "shape", "tied twice", "quantized", "unknown"])
def test_left_to_transformers(change: str, tmp_path: Path, checkpoint: Checkpoint) -> None:
    source = checkpoint("qwen2", tie_word_embeddings=change == "tied twice")
    tensors, fields = load_file(source / "model.safetensors"), {}
    if change == "more":
        tensors["model.extra"] = torch.zeros(1)
    elif change == "fewer":
        del tensors["model.norm.weight"]
    elif change == "shape":
        tensors["model.norm.weight"] = torch.zeros(3)
    elif change == "tied twice":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    elif change == "quantized":
        fields = {"quantization_config": {"quant_method": "mxfp4"}}
    else:
        fields = {"model_type": "starcoder2"}
    save_file(tensors, tmp_path / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    register_attention()
    assert load_plain(tmp_path, read_hf_config(tmp_path), dtype=torch.float32) is None


def same(model: torch.nn.Module, truth: torch.nn.Module) -> None:
    ours = dict(model.named_parameters()) | dict(model.named_buffers())
    theirs = dict(truth.named_parameters()) | dict(truth.named_buffers())
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name
    assert type(model) is type(truth)
    assert model.config.to_dict() == truth.config.to_dict()
    assert model.generation_config.to_dict() == truth.generation_config.to_dict()
