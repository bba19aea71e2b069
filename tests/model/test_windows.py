"""What a layer sees is what the model's own forward pass shows it, whatever the config says.

transformers' `generate` is no reference here: its DynamicCache makes every layer slide when the
configuration has a `sliding_window` and no `layer_types`, although the layers of llama, arcee and
others never look at that field. It then forgets keys that the model's forward pass without a
cache still sees. That forward pass is the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM  # noqa: E402

from stepwell.base.config import ModelConfig  # noqa: E402
from stepwell.base.errors import UnsupportedArchitecture  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.model.load import LoadedModel, load_model, read_hf_config  # noqa: E402
from stepwell.model.verify import SAMPLE_TOKENS, verify_architecture  # noqa: E402
from tests.checkpoints import ARCHITECTURES, MOE, VOCABULARY  # noqa: E402

Checkpoint = Callable[..., Path]
OUTPUT = 8
GREEDY = SamplingParams(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True)
# The window of these is in the configuration only; the model classes do not read it.
STRAY: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "bitnet": {},
    "llama": {},
}
QWEN2_MOE = MOE | {
    "use_sliding_window": True, "max_window_layers": 1, "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
}  # fmt: skip
# Longer than the text whose logits are compared at load: only the masks can tell.
LONG = SAMPLE_TOKENS + 12
# qwen2_moe and phimoe mask with a window that their attention is not told; olmoe tells its
# attention one that it does not mask with.
UNTOLD: dict[str, dict[str, Any]] = {"qwen2_moe": QWEN2_MOE, "phimoe": MOE, "olmoe": MOE}


def make_prompts() -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(3, VOCABULARY) for _ in range(n)] for n in (3, 40, 70, 111)]


@torch.inference_mode()
def forward_without_cache(folder: Path, prompt: list[int]) -> list[int]:
    """Greedy output, each token from a whole eager forward pass."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = list(prompt)
    for _ in range(OUTPUT):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def load(folder: Path) -> LoadedModel:
    return load_model(
        ModelConfig(path=str(folder)),
        folder,
        read_hf_config(folder),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("window", [24, LONG])
@pytest.mark.parametrize("model_type", STRAY)
def test_stray_window_is_ignored_as_the_model_does(
    model_type: str, window: int, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(model_type, **STRAY[model_type], sliding_window=window)
    prompts = make_prompts()
    outputs = [c.token_ids for c in LLM(str(folder), cache__pool="4MiB").generate(prompts, GREEDY)]

    assert outputs == [forward_without_cache(folder, prompt) for prompt in prompts]


@pytest.mark.parametrize("window", [24, LONG])
@pytest.mark.parametrize("model_type", UNTOLD)
def test_window_that_attention_is_not_told_is_refused(
    model_type: str, window: int, checkpoint: Checkpoint
) -> None:
    folder = checkpoint(model_type, **UNTOLD[model_type], sliding_window=window)

    with pytest.raises(UnsupportedArchitecture, match="does not hand its attention") as caught:
        LLM(str(folder), cache__pool="4MiB")

    assert "sliding_window" in caught.value.hint
    assert caught.value.code == "unsupported_architecture"


@pytest.mark.parametrize("model_type", UNTOLD)
def test_window_as_long_as_every_text_is_none(model_type: str, checkpoint: Checkpoint) -> None:
    """Published configurations name windows of the whole context length."""
    folder = checkpoint(model_type, **UNTOLD[model_type], sliding_window=512)

    assert verify_architecture(load(folder)).difference < 1e-3


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_tested_architectures_pass_the_comparison_at_load(
    model_type: str, checkpoint: Checkpoint
) -> None:
    """They are not compared when loaded; if they were, nothing would be refused."""
    window = {"sliding_window": LONG} if "sliding_window" in ARCHITECTURES[model_type] else {}

    assert verify_architecture(load(checkpoint(model_type, **window))).difference < 1e-3


@pytest.mark.parametrize("change", [None, LONG - 1, LONG + 1])
@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gpt_oss"])
def test_a_wrong_window_is_found_however_long_it_is(
    model_type: str, change: int | None, checkpoint: Checkpoint
) -> None:
    """Break our side: attention that is told another window, or none."""
    loaded = load(checkpoint(model_type, sliding_window=LONG))
    shapes = {m: replace(s, window=s.window and change) for m, s in loaded.shapes.items()}

    with pytest.raises(UnsupportedArchitecture, match="layer 0"):
        verify_architecture(replace(loaded, shapes=shapes))
