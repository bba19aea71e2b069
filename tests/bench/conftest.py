"""A tiny checkpoint, made the way that shapes are made."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import CheckpointNotFound  # noqa: E402
from stepwell.evaluate import shapes  # noqa: E402

TINY = shapes.SHAPES["qwen2.5-0.5b-shape"] | {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 5000,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="session")
def tiny_shape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer checkpoint whose vocabulary is larger than the house tokenizer's."""
    try:
        tokenizer = shapes.house_folder()
    except CheckpointNotFound:
        pytest.skip("models/house is missing, and shapes need its tokenizer")
    folder = tmp_path_factory.mktemp("bench")
    with mock.patch.dict(shapes.SHAPES, {"tiny": TINY}):
        return shapes.make_checkpoint("tiny", workdir=folder, tokenizer=tokenizer)
