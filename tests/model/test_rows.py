"""Rows of keys and values: every rotary turn is found, and recording changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stepwell.base.config import ModelConfig
from stepwell.base.errors import UnsupportedArchitecture
from stepwell.model.load import LoadedModel, load_model, read_hf_config
from stepwell.model.record import record
from stepwell.model.rotary import row_layouts

Checkpoint = Callable[..., Path]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    config = ModelConfig(path=str(folder))
    return load_model(
        config, folder, read_hf_config(folder), dtype=dtype, device=torch.device("cpu")
    )


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen3", "gemma3_text", "gpt_oss", "phi3", "granite", "cohere"]
)
def test_the_turn_is_found_and_taken_off(checkpoint: Checkpoint, model_type: str) -> None:
    loaded = load(checkpoint(model_type))
    keys, values = row_layouts(loaded)
    assert all(part.rotary is not None for part in keys.parts)
    assert all(part.rotary is None for part in values.parts)
    assert keys.parts[0].rotary.interleaved == (model_type == "cohere")  # type: ignore[union-attr]
    tokens = [5, 9, 5, 5, 30, 9, 5]
    recording = record(loaded, tokens, keys=keys, values=values)
    assert recording.rows.shape == (7, keys.width + values.width)
    # The first layer sees the token alone: once turned back, its keys do not know their position.
    first = recording.keys[:, : keys.parts[0].width]
    same = [i for i, token in enumerate(tokens) if token == 5]
    assert torch.allclose(first[same], first[0].expand(len(same), -1), atol=1e-4)
    assert not torch.allclose(first[0], first[1], atol=1e-2)


def test_recorded_rows_are_what_transformers_caches(checkpoint: Checkpoint) -> None:
    loaded = load(checkpoint("llama"))
    keys, values = row_layouts(loaded)
    tokens = list(range(40))
    recording = record(loaded, tokens, keys=keys, values=values)
    loaded.model.set_attn_implementation("eager")
    cache = loaded.model(input_ids=torch.tensor([tokens]), use_cache=True).past_key_values
    turned = keys.scatter(recording.keys, positions=recording.positions)
    plain = values.scatter(recording.values, positions=recording.positions)
    for layer, key, value in zip(cache.layers, turned, plain, strict=True):
        assert torch.allclose(layer.keys[0], key, atol=1e-4)
        assert torch.allclose(layer.values[0], value, atol=1e-4)


def test_frequencies_that_move_are_refused_by_name(checkpoint: Checkpoint) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    loaded = load(checkpoint("llama", rope_parameters=rope))
    with pytest.raises(UnsupportedArchitecture, match="dynamic"):
        row_layouts(loaded)
