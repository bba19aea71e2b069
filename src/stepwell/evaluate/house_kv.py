"""Real K and V to measure codecs on: what the house model leaves in the pool after a prompt.

Owns: turning a model's cache into blocks as `model/pool` lays them out. The house model is a test
article: figures from it say how codecs compare, not what a large model's cache takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.codec.shape import BlockShape, LayerKV

BLOCK_TOKENS = 16


def model_blocks(
    folder: Path, text: str, *, blocks: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[BlockShape, Tensor]:
    """The first `blocks` blocks of a prompt: (shape, [blocks, numbers] in `dtype`).

    `folder`: a checkpoint of transformers. ValueError if the text has too few tokens. The model
    computes in `dtype`.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(text, truncation=True, max_length=blocks * BLOCK_TOKENS)["input_ids"]
    if len(tokens) < blocks * BLOCK_TOKENS:
        raise ValueError(f"{len(tokens)} tokens do not fill {blocks} blocks of {BLOCK_TOKENS}")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    pairs = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
    layers = tuple(
        LayerKV(kv_heads=k.shape[0], key_dim=k.shape[2], value_dim=v.shape[2]) for k, v in pairs
    )
    shape = BlockShape(dtype=dtype, tokens=BLOCK_TOKENS, layers=layers)
    return shape, torch.cat([_rows(side, blocks) for pair in pairs for side in pair], 1)


def _rows(side: Tensor, blocks: int) -> Tensor:
    """[heads, tokens, dim] -> [blocks, heads * BLOCK_TOKENS * dim]."""
    heads, _, dim = side.shape
    cut = side.view(heads, blocks, BLOCK_TOKENS, dim).transpose(0, 1)
    return cut.reshape(blocks, heads * BLOCK_TOKENS * dim)


def block_views(numbers: Tensor) -> Sequence[memoryview]:
    """Flat views of bytes of each block, as the engine hands them to a codec."""
    rows = numbers.contiguous().view(torch.uint8).numpy()
    return [memoryview(row) for row in rows]
