"""A Qwen2 checkpoint as one GGUF file for llama.cpp: matrices in bfloat16, the rest in float32.

Written with the `gguf` package, straight from the safetensors. There is no vocabulary in it: the
adapter speaks token ids. What the file would not say right is refused, not approximated.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_FOLDER = "STEPWELL_CONVERTED"
_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")


def converted(model: Path) -> Path:
    """The model's GGUF file; written unless there is one that is newer than the weights.

    It lies in the folder that $STEPWELL_CONVERTED names (the benchmark's work folder), else
    beside the model's.
    """
    model = model.resolve()
    folder = Path(os.environ.get(_FOLDER) or model.parent)
    key = zlib.crc32(str(model).encode())  # folders of different models may be called the same
    file = folder / f"{model.name}-{key:08x}.bf16.gguf"
    written = max(path.stat().st_mtime for path in weight_files(model))
    if not file.is_file() or file.stat().st_mtime < written:
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        try:
            write(model, part)
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)
    return file


def weight_files(model: Path) -> list[Path]:
    """The checkpoint's safetensors. Raises FileNotFoundError if it has none."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{model} has no *.safetensors")
    return files


def check(config: Mapping[str, Any]) -> None:
    """Raises ValueError for what this conversion does not cover."""
    if config["model_type"] != "qwen2":
        raise ValueError(f"model_type {config['model_type']}: only qwen2 is converted")
    if config.get("use_sliding_window"):
        raise ValueError("sliding windows are not converted")
    if rope_parameters(config)["rope_type"] != "default":
        raise ValueError("scaled rotary embeddings are not converted")


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Base and type, whether written the old way (rope_theta, rope_scaling) or the new."""
    found = {"rope_theta": config.get("rope_theta", 10000.0), "rope_type": "default"}
    return found | (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})


def gguf_name(name: str) -> str:
    """What GGUF calls a tensor of a Qwen2 checkpoint. Raises KeyError for one it does not know."""
    stem, _, kind = name.rpartition(".")
    if match := _LAYER.fullmatch(stem):
        return f"blk.{match[1]}.{_INNER[match[2]]}.{kind}"
    return f"{_OUTER[stem]}.{kind}"


def describe(writer: Any, config: Mapping[str, Any]) -> None:
    """The metadata that llama.cpp needs. `writer`: a `gguf.GGUFWriter`."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope_parameters(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")


def write(model: Path, file: Path) -> None:
    """The whole file; one tensor in memory at a time."""
    import gguf
    import numpy as np
    import torch

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    check(config)
    writer = gguf.GGUFWriter(file, "qwen2")
    describe(writer, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name, part in _slices(model):
        shape = part.get_shape()
        matrix = len(shape) > 1
        kind = gguf.GGMLQuantizationType.BF16 if matrix else gguf.GGMLQuantizationType.F32
        size = int(np.prod(shape)) * (2 if matrix else 4)
        writer.add_tensor_info(gguf_name(name), shape, np.dtype(np.int16), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, part in _slices(model):
        tensor = part[:]
        if tensor.dim() > 1:
            writer.write_tensor_data(tensor.to(torch.bfloat16).view(torch.int16).numpy())
        else:
            writer.write_tensor_data(tensor.float().numpy())
    writer.close()


def _slices(model: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of the checkpoint, not read yet; the same order each time."""
    from safetensors import safe_open

    for file in weight_files(model):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                yield name, tensors.get_slice(name)
