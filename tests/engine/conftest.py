"""A tiny random-weight engine with the house tokenizer, shared by the engine tests."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import CheckpointNotFound  # noqa: E402
from stepwell.codec.kvtc.artifact import save_calibration  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.evaluate.calibrate import CalibrationOptions, calibrate, open_source  # noqa: E402
from stepwell.model.load import find_checkpoint  # noqa: E402

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer float32 llama over the house vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    try:
        house = find_checkpoint("house")
    except CheckpointNotFound:
        pytest.skip("models/house is missing, and these tests need its tokenizer")
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=4096, max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (house / name).is_file():
            shutil.copy(house / name, folder / name)
    return folder


@pytest.fixture
def make_llm(tiny_checkpoint: Path) -> Callable[..., LLM]:
    """make_llm(cache__pool="4MiB") -> a fresh engine."""

    def make(**settings: Any) -> LLM:
        return LLM(str(tiny_checkpoint), **({"cache__pool": "8MiB"} | settings))

    return make


@pytest.fixture(scope="session")
def llm(tiny_checkpoint: Path) -> LLM:
    """One engine for the tests that leave nothing behind."""
    return LLM(str(tiny_checkpoint), cache__pool="8MiB")


@pytest.fixture(scope="session")
def calibrated(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of the tiny model from random tokens, as the prompts of these tests are."""
    source = open_source(str(tiny_checkpoint))
    place = tmp_path_factory.mktemp("kvtc") / "tiny.kvtc"
    source_of_tokens = random.Random(77)
    words = source.loaded.tokenizer.decode(
        [source_of_tokens.randrange(300, 4000) for _ in range(6000)]
    )
    text = place.with_suffix(".txt")
    text.write_text(words, encoding="utf-8")
    options = CalibrationOptions(model="", texts=(text,), tokens=6000, length=256)
    made, _ = calibrate(source, options, on_progress=lambda *_: None)
    save_calibration(made, place)
    return place
