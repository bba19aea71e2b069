"""Tiny random-weight models of many architectures, written to disk once per session.

A pytest plugin: conftest.py of the folders that need it names it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

VOCABULARY = 512
BASE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False, "initializer_range": 0.2,
}  # fmt: skip
MOE: dict[str, Any] = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
# What each architecture needs beside BASE. Windows are short, so that every test crosses them.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 24},
    "phi3": {"head_dim": None},
    "gemma2": {"sliding_window": 24, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0,
               "final_logit_softcapping": 10.0},
    "gemma3_text": {"sliding_window": 24, "query_pre_attn_scalar": 16,
                    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.2, "logits_scaling": 2.0, "residual_multiplier": 0.5,
                "embedding_multiplier": 3.0},
    "mixtral": MOE | {"sliding_window": None},
    "qwen3_moe": MOE | {"moe_intermediate_size": 48},
    "gpt_oss": MOE | {"sliding_window": 24,
                      "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
}  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """checkpoint("llama") -> folder with a float32 model of random weights."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(model_type: str, **changes: Any) -> Path:
        folder = root / "-".join([model_type, *(f"{k}={v}" for k, v in sorted(changes.items()))])
        if not folder.exists():
            settings = BASE | ARCHITECTURES.get(model_type, {}) | changes
            settings = {k: v for k, v in settings.items() if v is not None}
            torch.manual_seed(7)
            config = AutoConfig.for_model(model_type, **settings)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            for name, parameter in model.named_parameters():
                if "sinks" in name or "bias" in name:
                    torch.nn.init.normal_(parameter, std=1.0)
            model.save_pretrained(folder)
        return folder

    yield make
    shutil.rmtree(root, ignore_errors=True)
