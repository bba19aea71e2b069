"""Made-up checkpoints: complete, found again, with text for every token."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from stepwell.base.errors import ConfigError
from stepwell.evaluate import shapes


def test_every_token_has_text_of_its_own(tiny_shape: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_shape)
    assert len(tokenizer) >= 5000  # its class may add an end token of its own
    assert tokenizer.decode([4999]) == " w4999"
    assert (
        tokenizer.decode(tokenizer.encode("plain text"), skip_special_tokens=True) == "plain text"
    )


def test_a_made_checkpoint_is_found_again(tiny_shape: Path) -> None:
    before = (tiny_shape / "model.safetensors").stat().st_mtime_ns
    with mock.patch.dict(shapes.SHAPES, {"tiny": {}}):
        again = shapes.make_checkpoint(
            "tiny", workdir=tiny_shape.parents[1], tokenizer=Path("nowhere")
        )
    assert again == tiny_shape
    assert (tiny_shape / "model.safetensors").stat().st_mtime_ns == before


def test_unknown_shapes_are_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"qwen2\.5-0\.5b-shape"):
        shapes.make_checkpoint("qwen2.5", workdir=tmp_path, tokenizer=tmp_path)
    assert shapes.is_shape("qwen")
    assert not shapes.is_shape("house")
