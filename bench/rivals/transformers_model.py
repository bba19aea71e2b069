"""A model as transformers loads it, for the rivals that are transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from .shared import Started


def load_model(folder: Path) -> tuple[Any, Started]:
    """In bfloat16 with sdpa; torch's own choice of threads."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, attn_implementation="sdpa"
    ).eval()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    engine = f"transformers {transformers.__version__}"
    return model, Started(engine, versions, threads=torch.get_num_threads())
