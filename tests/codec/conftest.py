"""What codec tests share: real K and V of the house model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stepwell.codec.shape import BlockShape
from stepwell.evaluate.house_kv import model_blocks

ROOT = Path(__file__).parents[2]
BLOCKS = 128


@pytest.fixture(scope="session")
def house() -> tuple[BlockShape, torch.Tensor]:
    """(shape, bfloat16 [128, numbers]): a prompt of 2,048 tokens of this project's own pages."""
    text = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    return model_blocks(ROOT / "models" / "house", text, blocks=BLOCKS)
