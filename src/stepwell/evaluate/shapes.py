"""Checkpoints with the shape of a known model and random weights, made on this machine.

Speed does not depend on what the weights are; a shape can be measured without a download and
without a licence. The tokenizer is the house model's, with one made-up word for each further id,
so that every token has text and HTTP costs what it would cost.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from stepwell.base.errors import CheckpointNotFound, ConfigError, unknown_name

SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b-shape": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 6,
        "pad_token_id": 0,
        "use_cache": True,
        "use_sliding_window": False,
    },
    # 1.89e9 parameters, 3.8 GB: large beside the memory that streaming is allowed in its bench.
    "llama-1.9b-shape": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 2048,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 8192,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 6,
        "pad_token_id": 0,
        "use_cache": True,
    },
}
ALIASES = {"qwen": "qwen2.5-0.5b-shape"}


def house_folder() -> Path:
    """The house model beside this installation, found without torch. Raises
    CheckpointNotFound."""
    return model_folder("house")


def model_folder(name: str) -> Path:
    """A model that is shipped in `models/`, as `house_folder`."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "models" / name / "config.json").is_file():
            return parent / "models" / name
    raise CheckpointNotFound(
        f"models/{name} is not beside this installation.",
        hint="Run from a clone of the repository, or name a checkpoint folder.",
    )


def is_shape(name: str) -> bool:
    """Whether this names a shape rather than a checkpoint."""
    return ALIASES.get(name, name) in SHAPES


def make_checkpoint(name: str, *, workdir: Path, tokenizer: Path, seed: int = 7) -> Path:
    """Folder with config, random bf16 weights and tokenizer; made once, then found again.

    `tokenizer`: folder with the house model's tokenizer files.
    """
    name = ALIASES.get(name, name)
    if name not in SHAPES:
        message, hint = unknown_name("shape", name, SHAPES)
        raise ConfigError(message, hint=hint, param="model")
    folder = workdir / "shapes" / name
    done = folder / ".complete"
    if done.is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPES[name], indent=2), encoding="utf-8")
    _write_weights(folder, seed=seed)
    _write_tokenizer(folder, tokenizer, vocab_size=SHAPES[name]["vocab_size"])
    done.touch()
    return folder


def _write_weights(folder: Path, *, seed: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.generation_config.eos_token_id = SHAPES[folder.name]["eos_token_id"]
    model.save_pretrained(folder)


def _write_tokenizer(folder: Path, source: Path, *, vocab_size: int) -> None:
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    table = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = table["model"]["vocab"]
    taken = set(vocab.values()) | {token["id"] for token in table.get("added_tokens", ())}
    for token_id in range(vocab_size):
        if token_id not in taken:
            vocab[f"Ġw{token_id}"] = token_id  # byte-level BPE writes a space as Ġ
    (folder / "tokenizer.json").write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
