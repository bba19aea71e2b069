"""Fused layers compute what transformers' layers compute, over pages and through any context."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from stepwell.kernels.linear import WeightFormat, pack_linears, refusal
from stepwell.kernels.paged_attention import PagedLayer, RaggedBatch, paged_attention
from stepwell.kernels.paged_attention.base import KVFormat
from stepwell.kernels.write_kv import write_kv
from stepwell.model.attention import (
    ATTENTION_NAME,
    CONTEXT_ARGUMENT,
    StepContext,
    probe_layers,
    register_attention,
)
from stepwell.model.fused.stack import FusedStack, fuse_layers
from stepwell.model.pool import KVPool
from stepwell.model.swap import swap_modules

_reason = refusal(torch.zeros(16, 16, dtype=torch.bfloat16), format=WeightFormat.INT8)
pytestmark = pytest.mark.skipif(_reason is not None, reason=str(_reason))

SIZES = {
    "vocab_size": 300, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "mistral": MistralConfig(**SIZES, sliding_window=8),
    "qwen2": Qwen2Config(**(SIZES | {"num_attention_heads": 2, "num_key_value_heads": 2})),
    "qwen2-mixed": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZES),
}


def make(name: str) -> nn.Module:
    register_attention()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        CONFIGS[name], dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME
    )
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases that are not all alike
            parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval().requires_grad_(requires_grad=False)


@dataclass
class AnyContext:
    """The pool through the context's own method, which the program does not know."""

    layers: dict[nn.Module, PagedLayer]
    batch: RaggedBatch
    kept: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def attend(self, module, query, key, value, spec):
        self.kept.append((key, key.clone()))
        write_kv(key, value, self.layers[module], self.batch)
        return paged_attention(query, self.layers[module], self.batch, spec)


@torch.inference_mode()
def logits(
    model: nn.Module,
    shapes: Any,
    make_context=StepContext,
    kv: KVFormat = KVFormat.MODEL,
) -> list[torch.Tensor]:
    """A prompt of 40 tokens, then steps of two sequences."""
    pool = KVPool.reserve(
        shapes,
        num_blocks=16,
        block_size=16,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        form=kv,
    )
    generator = torch.Generator().manual_seed(1)
    found = []

    def run(tokens: int, positions: list[int], batch: RaggedBatch) -> None:
        output = model(
            input_ids=torch.randint(300, (1, tokens), generator=generator),
            position_ids=torch.tensor([positions]),
            use_cache=False,
            **{CONTEXT_ARGUMENT: make_context(layers=pool.layers, batch=batch)},
        )
        found.append(output.logits[0].float())

    batch = RaggedBatch.build([40], [40], block_tables=[[3, 1, 2]], block_size=16)
    run(40, list(range(40)), batch)
    for i in range(4):
        batch = RaggedBatch.build(
            [1, 1], [41 + i, 1 + i], block_tables=[[3, 1, 2], [7]], block_size=16
        )
        run(2, [40 + i, i], batch)
    return found


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    a, b = torch.cat([f.flatten() for f in found]), torch.cat([w.flatten() for w in wanted])
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("format", [f for f in WeightFormat if f is not WeightFormat.NF4])
def test_fused_layers_agree_with_the_same_packed_layers(name, format):
    """Only the composition differs: the linear layers are the same on both sides."""
    plain, fused = make(name), make(name)
    plain_shapes, shapes = probe_layers(plain), probe_layers(fused)
    pack_linears(plain, format=format)
    decisions = swap_modules(fused, shapes, format=format)
    assert [d.value for d in decisions if d.name == "model.layers"] == ["fused"]
    wanted = logits(plain, plain_shapes)
    assert error(logits(fused, shapes), wanted) < 0.02


@pytest.mark.parametrize("name", list(CONFIGS))
def test_any_context_gives_the_same_bits(name):
    model = make(name)
    shapes = probe_layers(model)
    swap_modules(model, shapes)
    paged = logits(model, shapes)
    other = logits(model, shapes, AnyContext)
    assert all(torch.equal(a, b) for a, b in zip(paged, other, strict=True))


def test_what_a_context_keeps_stays_as_it_was():
    model = make("llama")
    shapes = probe_layers(model)
    swap_modules(model, shapes)
    contexts: list[AnyContext] = []

    def keeping(**kwargs: Any) -> AnyContext:
        contexts.append(AnyContext(**kwargs))
        return contexts[-1]

    logits(model, shapes, keeping)
    kept = [pair for context in contexts for pair in context.kept]
    assert len(kept) == 5 * 3 and all(torch.equal(a, b) for a, b in kept)


@pytest.mark.parametrize("kv", [KVFormat.INT8, KVFormat.INT4])
def test_pools_in_low_bits(kv):
    model = make("llama")
    shapes = probe_layers(model)
    swap_modules(model, shapes)
    paged = logits(model, shapes, kv=kv)
    other = logits(model, shapes, AnyContext, kv=kv)
    assert all(torch.equal(a, b) for a, b in zip(paged, other, strict=True))
    assert 0 < error(paged, logits(model, shapes)) < (0.05 if kv is KVFormat.INT8 else 0.3)


def test_more_rows_than_reserved_and_back():
    model = make("llama")
    shapes = probe_layers(model)
    swap_modules(model, shapes)
    stack = model.model.layers[0]
    assert isinstance(stack, FusedStack) and not stack.workspace
    few = logits(model, shapes)
    before = sum(rows.nbytes for rows in stack.workspace)
    stack.reserve(500)
    assert sum(rows.nbytes for rows in stack.workspace) > before
    assert all(torch.equal(a, b) for a, b in zip(few, logits(model, shapes), strict=True))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_lossless_weights_are_the_same_weights(name):
    found = []
    for format in (WeightFormat.BFLOAT16, WeightFormat.LOSSLESS):
        model = make(name)
        shapes = probe_layers(model)
        swap_modules(model, shapes, format=format)
        assert model.lm_head.format is format
        found.append(logits(model, shapes))
    assert error(*found) < 0.005  # float32 sums of rows with weights aside, in another order
    same = [(a.argmax(-1) == b.argmax(-1)).float().mean() for a, b in zip(*found, strict=True)]
    assert min(same) > 0.9


def test_without_a_context_the_layers_run_as_transformers_wrote_them():
    model = make("qwen3")
    shapes = probe_layers(model)
    model.set_attn_implementation("eager")
    tokens = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        before = model(input_ids=tokens, use_cache=False).logits.float()
        swap_modules(model, shapes)
        after = model(input_ids=tokens, use_cache=False).logits.float()
    assert (after - before).norm() / before.norm() < 0.02


def test_what_cannot_be_fused_stays_and_says_why():
    register_attention()
    gemma = AutoModelForCausalLM.from_config(
        Gemma2Config(**SIZES), dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME
    )
    shapes = probe_layers(gemma)
    pack_linears(gemma)
    decision = fuse_layers(gemma, shapes)
    assert decision.value == "as loaded" and "Gemma2DecoderLayer" in decision.because
    model = make("llama")
    shapes = probe_layers(model)
    assert "not in panels" in fuse_layers(model, shapes).because


@pytest.mark.parametrize(
    "change", [{"intermediate_size": 240}, {"num_key_value_heads": 1}], ids=str
)
def test_a_width_that_is_padded_is_not_fused_and_computes_the_same(change):
    """The kernel writes whole units: into rows of a workspace that would be their neighbours."""
    sizes = SIZES | change
    models = []
    for _ in range(2):
        register_attention()
        torch.manual_seed(0)
        config = LlamaConfig(**sizes)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=ATTENTION_NAME
        )
        models.append(model.eval().requires_grad_(requires_grad=False))
    plain, packed = models
    plain_shapes, shapes = probe_layers(plain), probe_layers(packed)
    decisions = swap_modules(packed, shapes)
    (layers,) = [d for d in decisions if d.name == "model.layers"]
    assert layers.value == "as loaded" and "not whole units" in layers.because
    assert error(logits(packed, shapes), logits(plain, plain_shapes)) < 0.02


def test_reference_kernels_replace_nothing(monkeypatch):
    from stepwell.kernels import registry

    monkeypatch.setenv("STEPWELL_KERNELS", "reference")
    registry.forget()
    try:
        model = make("llama")
        kinds = [type(m) for m in model.modules()]
        decisions = swap_modules(model, probe_layers(model))
        assert [type(m) for m in model.modules()] == kinds
        assert all("reference" in d.because for d in decisions)
    finally:
        monkeypatch.undo()
        registry.forget()
