"""Which architectures are tested, which are refused and why.

An architecture on neither list is loaded, and then compared with transformers (`verify.py`)
before it serves anything.
"""

from __future__ import annotations

from typing import Any

from stepwell.base.errors import UnsupportedArchitecture

# tests/model/test_architectures.py proves token identity with transformers for each of these.
TESTED_MODEL_TYPES = frozenset(
    {
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
    }
)

# Layer kinds of transformers' `config.layer_types` that keep K and V of past tokens and nothing
# else, visible to every later token or inside a window.
PAGED_LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "attention"})


def refuse_unsupported(hf_config: Any) -> None:
    """Raise UnsupportedArchitecture for what the configuration already rules out."""
    from transformers import AutoModelForCausalLM

    name = hf_config.model_type
    tested = f"Tested here: {', '.join(sorted(TESTED_MODEL_TYPES))}."
    if getattr(hf_config, "is_encoder_decoder", False):
        raise UnsupportedArchitecture(f"{name!r} is an encoder-decoder.", hint=tested)
    if type(hf_config) not in AutoModelForCausalLM._model_mapping:
        raise UnsupportedArchitecture(f"{name!r} is not a causal language model.", hint=tested)
    model_class = AutoModelForCausalLM._model_mapping[type(hf_config)]
    if not getattr(model_class, "_supports_attention_backend", False):
        raise UnsupportedArchitecture(
            f"{name!r} computes attention in its own way, not through the attention interface.",
            hint=tested,
        )
    text = hf_config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - PAGED_LAYER_TYPES
    if kinds:
        raise UnsupportedArchitecture(
            f"{name!r} has layers of kind {', '.join(sorted(kinds))}.",
            hint=f"Served are: {', '.join(sorted(PAGED_LAYER_TYPES))}. {tested}",
        )
    if getattr(text, "num_kv_shared_layers", 0):
        raise UnsupportedArchitecture(f"{name!r} shares K and V between layers.", hint=tested)
