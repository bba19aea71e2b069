"""Bytes that a step reads, counted on models whose sizes are known."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig  # noqa: E402

from stepwell.evaluate.weights_read import weights_read  # noqa: E402

HIDDEN, INNER, WORDS = 32, 64, 100
LINEAR = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INNER + WORDS * HIDDEN
NORMS = 3 * HIDDEN


class Squeezed(nn.Module):
    """A weight in one byte an element and a scale a row, as plain buffers."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        rows, columns = plain.weight.shape
        self.register_buffer("levels", torch.zeros(rows, columns, dtype=torch.uint8))
        self.register_buffer("scales", torch.zeros(rows, 1, dtype=torch.float16))


def model(*, tied: bool) -> nn.Module:
    config = LlamaConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=2,
        vocab_size=WORDS, tie_word_embeddings=tied,
    )  # fmt: skip
    made: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return made


def rotary_bytes(made: nn.Module) -> int:
    return sum(b.numel() * b.element_size() for b in dict(made.named_buffers()).values())


@pytest.mark.parametrize("tied", [True, False])
def test_each_weight_counts_once_and_the_table_only_as_a_head(tied: bool) -> None:
    made = model(tied=tied)
    found = weights_read(made, config=made.config)
    assert found.linear_plain == 2 * LINEAR
    assert found.total == 2 * (LINEAR + NORMS) + rotary_bytes(made)
    assert found.linear == found.total - 2 * NORMS


@pytest.mark.parametrize("tied", [True, False])
def test_low_bit_weights_count_with_their_scales(tied: bool) -> None:
    made = model(tied=tied)
    rotary = rotary_bytes(made)
    rows = 0
    for parent in list(made.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Squeezed(child))
                rows += child.out_features
    found = weights_read(made, config=made.config)
    assert found.linear == LINEAR + 2 * rows + rotary
    assert found.linear_plain == 2 * LINEAR


def test_a_weight_in_another_library_s_layout_tells_its_size() -> None:
    made = model(tied=True)
    plain = weights_read(made, config=made.config)
    head = nn.Identity()
    head.nbytes = 2 * WORDS * HIDDEN  # type: ignore[assignment]
    made.lm_head = head
    assert weights_read(made, config=made.config) == plain
