"""The transformers model of a checkpoint, with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stepwell.base.config import ModelConfig
from stepwell.base.errors import UnsafeCheckpoint
from stepwell.model.attention import ATTENTION_NAME
from stepwell.model.plain_checkpoint import load_plain


def build_model(
    config: ModelConfig, folder: Path, hf_config: Any, *, dtype: torch.dtype
) -> nn.Module:
    """On the CPU, with our attention, in `dtype`. Raises UnsafeCheckpoint where the weights are
    pickled."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the caller shows progress
    if config.random_weights:
        return AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, attn_implementation=ATTENTION_NAME, trust_remote_code=False
        )
    if not any(folder.glob("*.safetensors")):
        raise UnsafeCheckpoint(
            f"{folder} has no safetensors weights; pickled ones are never loaded.",
            hint="Convert them with transformers' save_pretrained.",
        )
    plain = load_plain(folder, hf_config, dtype=dtype)
    if plain is not None:
        return plain
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=hf_config,
        dtype=dtype,
        attn_implementation=ATTENTION_NAME,
        use_safetensors=True,
        trust_remote_code=False,
    )
