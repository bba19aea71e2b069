"""Weight recipes: what was saved comes back, and nothing else is taken for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepwell.base.errors import ConfigError
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.weight_recipe import (
    Recipe,
    checkpoint_hash,
    load_recipe,
    recipe_path,
    save_recipe,
)

LAYER = "model.layers.1.mlp.down_proj"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def recipe(checkpoint: Callable[..., Path]) -> Recipe:
    weights = checkpoint_hash(checkpoint("llama"))
    kept = {LAYER: WeightFormat.INT8}
    return Recipe(weights, WeightFormat.INT4, kept, {"kl_plain": 0.02, "kl_mean": 0.01})


def test_it_comes_back_for_its_weights_alone(
    checkpoint: Callable[..., Path], recipe: Recipe
) -> None:
    folder = checkpoint("llama")
    assert load_recipe(folder, WeightFormat.INT4) is None  # none was made
    place = recipe_path(recipe.weights, WeightFormat.INT4)
    assert save_recipe(recipe, place) == place.stat().st_size
    assert load_recipe(folder, WeightFormat.INT4) == recipe
    assert load_recipe(folder, WeightFormat.INT8) is None
    assert load_recipe(folder, WeightFormat.BFLOAT16) is None
    assert load_recipe(None, WeightFormat.INT4) is None  # random weights
    other = checkpoint("llama", hidden_size=32)
    assert checkpoint_hash(other) != recipe.weights
    assert load_recipe(other, WeightFormat.INT4) is None
    with pytest.raises(ConfigError, match="made for other weights"):
        load_recipe(other, WeightFormat.INT4, path=place)
    with pytest.raises(ConfigError, match="made for int4"):
        load_recipe(folder, WeightFormat.NF4, path=place)


def test_the_decision_names_what_was_measured(recipe: Recipe) -> None:
    decision = recipe.decision
    assert decision.name == "weights.int4.exceptions" and decision.value == "1 layers in int8"
    assert "KL 0.02 to 0.01" in decision.because
    assert Recipe("00", WeightFormat.INT8).decision.value == "none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "other"}, "something else"),
        ({"version": 2}, "version 2, known is 1"),
        ({"format": "int5"}, "do not fit together"),
        ({"exceptions": {LAYER: "int4"}}, "no more bits"),
        ({"exceptions": {LAYER: "float64"}}, "do not fit together"),
        ({"exceptions": [LAYER]}, "do not fit together"),
        ({"measured": 3}, "do not fit together"),
        ({"measured": {"kl_mean": float("nan")}}, "do not fit together"),
        ({"weights": "ff"}, "other weights"),
    ],
)
def test_anything_else_is_refused(
    checkpoint: Callable[..., Path], recipe: Recipe, change: dict[str, Any], words: str
) -> None:
    place = recipe_path(recipe.weights, WeightFormat.INT4)
    save_recipe(recipe, place)
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(checkpoint("llama"), WeightFormat.INT4)
    assert "evaluate sensitivity" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_files_are_refused(
    checkpoint: Callable[..., Path], recipe: Recipe, data: bytes, tmp_path: Path
) -> None:
    place = tmp_path / "recipe.json"
    place.write_bytes(data)
    with pytest.raises(ConfigError, match="cannot be used"):
        load_recipe(checkpoint("llama"), WeightFormat.INT4, path=place)
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(checkpoint("llama"), WeightFormat.INT4, path=tmp_path / "none.json")
