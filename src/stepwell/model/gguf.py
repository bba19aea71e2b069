"""GGUF files: configuration and weights through transformers, which dequantizes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.model.attention import ATTENTION_NAME


def read_gguf_config(path: Path) -> Any:
    """The configuration that the file's header describes. Raises UnsupportedArchitecture."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        raise UnsupportedArchitecture(
            f"transformers cannot read {path.name}: {error}",
            hint="Load the checkpoint in Hugging Face layout instead.",
        ) from error


def load_gguf(path: Path, *, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, its weights dequantized to `dtype`; and transformers' loading info."""
    from transformers import AutoModelForCausalLM, GgufConfig

    return AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=GgufConfig(gguf_file=path.name, dequantize=True),
        dtype=dtype,
        attn_implementation=ATTENTION_NAME,
        trust_remote_code=False,
        output_loading_info=True,
    )
