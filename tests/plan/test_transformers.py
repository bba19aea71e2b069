"""Layers and weights against transformers' own models, built without memory."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stepwell.plan.architecture import AttentionKind, ModelSpec  # noqa: E402
from stepwell.plan.families import known_types  # noqa: E402
from stepwell.plan.read import spec_of  # noqa: E402

# What the default configuration lacks, or what makes it refuse itself.
CHANGES: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "glm4_moe": {"head_dim": 128},
    "hunyuan_v1_dense": {"head_dim": 128},
    "ministral": {"head_dim": 128},
}
_OTHERS = ("kimi_k2",)  # DeepSeek-V3's code under another name, not in transformers
_KINDS = {
    "full_attention": AttentionKind.FULL,
    "sliding_attention": AttentionKind.SLIDING,
    "chunked_attention": AttentionKind.CHUNKED,
    "linear_attention": AttentionKind.NONE,
    "mamba": AttentionKind.NONE,
    "conv": AttentionKind.NONE,
    "attention": AttentionKind.FULL,
}


def small(name: str) -> dict[str, Any]:
    """Few layers, so that building is quick; as many as the patterns need."""
    key = {"gpt2": "n_layer"}.get(name, "num_hidden_layers")
    return {"model_type": name, key: 8, **CHANGES.get(name, {})}


def tensors(config: Any) -> Counter[tuple[int, ...]]:
    """Shape -> how many of it, each tensor once; experts' tensors cut into their matrices."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found: Counter[tuple[int, ...]] = Counter()
    for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
        shape = tuple(tensor.shape)
        is_stack = len(shape) == 3 and shape[1] != 1
        found[tuple(sorted(shape[1:])) if is_stack else tuple(sorted(shape))] += (
            shape[0] if is_stack else 1
        )
    return found


def ours(spec: ModelSpec) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter()
    for part in spec.weights:
        found[tuple(sorted(part.shape))] += part.copies
    return found


def numbers(found: Counter[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) * count for shape, count in found.items())


@pytest.mark.parametrize("name", [name for name in known_types() if name not in _OTHERS])
def test_weights_are_those_that_transformers_builds(name: str) -> None:
    values = small(name)
    config = transformers.CONFIG_MAPPING[name](
        **{key: value for key, value in values.items() if key != "model_type"}
    )
    spec = spec_of(values, name=name, source="test")
    expected, found = tensors(config), ours(spec)

    assert numbers(found) == numbers(expected)
    if name != "gpt_oss":  # its experts' biases are stacked as well
        assert found == expected


@pytest.mark.parametrize("name", [name for name in known_types() if name not in _OTHERS])
def test_kinds_of_layers_are_those_of_the_configuration(name: str) -> None:
    values = small(name)
    config = transformers.CONFIG_MAPPING[name](
        **{key: value for key, value in values.items() if key != "model_type"}
    )
    types = getattr(config, "layer_types", None)
    if types is None or name == "falcon_h1":
        pytest.skip("the configuration names no kinds of layers")
    spec = spec_of(values, name=name, source="test")

    assert [layer.kind for layer in spec.layers] == [_KINDS[each] for each in types]


def test_the_defaults_are_those_of_the_installed_transformers() -> None:
    from scripts.write_plan_defaults import PLACE, collect

    assert json.loads(PLACE.read_text(encoding="utf-8")) == collect()
