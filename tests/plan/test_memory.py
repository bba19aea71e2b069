"""KV as the mathematics needs it and as engines round it; weights as ours holds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.plan import catalogue
from stepwell.plan.architecture import AttentionKind, KVPrecision, WeightPrecision
from stepwell.plan.memory import (
    Rounding,
    fixed_bytes,
    kv_bytes,
    kv_bytes_per_token,
    refusal,
    states,
    weight_bytes,
    weight_table,
)
from stepwell.plan.read import read_model, spec_of
from stepwell.plan.stepwell_rounding import block_bytes

NAMES = st.sampled_from(catalogue.names())


@settings(deadline=None)
@given(NAMES, st.integers(1, 1 << 21), st.sampled_from(KVPrecision), st.sampled_from(Rounding))
def test_an_engine_never_allocates_less_than_is_needed(
    name: str, tokens: int, precision: KVPrecision, rounding: Rounding
) -> None:
    spec = read_model(name)
    if refusal(spec, precision, rounding) is not None:
        with pytest.raises(UnsupportedArchitecture):
            kv_bytes(spec, tokens, precision, rounding)
        return
    needed = kv_bytes(spec, tokens, precision)
    # vLLM keeps states in fewer bytes than transformers.
    assert kv_bytes(spec, tokens, precision, rounding) >= needed - states(spec)


@settings(deadline=None)
@given(NAMES, st.integers(1, 1 << 20), st.integers(0, 1 << 20), st.sampled_from(Rounding))
def test_more_tokens_never_take_less(name: str, tokens: int, more: int, rounding: Rounding) -> None:
    spec = read_model(name)
    if refusal(spec, rounding=rounding) is None:
        few, many = (kv_bytes(spec, n, rounding=rounding) for n in (tokens, tokens + more))
        assert few <= many


@settings(deadline=None)
@given(NAMES)
def test_a_long_sequence_is_its_fixed_part_and_so_much_a_token(name: str) -> None:
    spec = read_model(name)
    long = 1 << 24  # beyond every window

    assert kv_bytes(spec, long) == fixed_bytes(spec) + long * kv_bytes_per_token(spec)


@settings(deadline=None)
@given(NAMES, st.sampled_from(WeightPrecision))
def test_components_add_up(name: str, precision: WeightPrecision) -> None:
    spec = read_model(name)

    assert sum(weight_table(spec, precision).values()) == weight_bytes(spec, precision)


def test_our_blocks_hold_every_token_of_every_layer() -> None:
    spec = read_model("gpt-oss-20b")

    assert kv_bytes(spec, 1, rounding=Rounding.STEPWELL) == 16 * 49_152
    assert kv_bytes(spec, 4096, rounding=Rounding.STEPWELL) == 4096 * 49_152


def test_our_blocks_hold_latents_written_out() -> None:
    spec = read_model("deepseek-v3")
    each = 61 * 128 * (128 + 64 + 128) * 2

    assert kv_bytes_per_token(spec, rounding=Rounding.STEPWELL) == each


@pytest.mark.parametrize(
    ("precision", "tile"),
    [
        # one head's 16 tokens: levels of K and V, scales, up to a cache line
        (KVPrecision.INT8, 16 * 128 * 2 + 2 * 16 * 2),
        (KVPrecision.INT4, 16 * 128 + 2 * 16 * 2 * 4),
    ],
)
def test_our_low_bit_blocks_hold_tiles(precision: KVPrecision, tile: int) -> None:
    spec = read_model("llama-3.1-8b")

    assert block_bytes(spec, precision) == 32 * 8 * -(-tile // 64) * 64


def test_vllm_cuts_layers_into_groups_of_one_page_size() -> None:
    gemma = read_model("gemma-3-27b")  # 10 full, 52 with a window: 1 and 6 groups of 10
    page = 16 * 16 * 128 * 2 * 2
    window = -(-(1024 - 1 + 1) // 16) + 1

    found = kv_bytes(gemma, 32_768, rounding=Rounding.VLLM)
    assert found == (2048 + 6 * window) * 10 * page


def test_vllm_grows_blocks_until_a_page_holds_a_state() -> None:
    spec = read_model("qwen3-next-80b-a3b")  # 12 full, 36 with a state: 1 and 3 groups of 12
    state = (2 * 16 * 128 + 32 * 128) * 3 * 2 + 32 * 128 * 128 * 2
    token = 2 * 256 * 2 * 2
    block = 16 * -(-state // (16 * token))

    found = kv_bytes(spec, 10 * block, rounding=Rounding.VLLM)
    assert found == (10 + 3) * 12 * block * token


def test_vllm_rounds_a_plain_model_up_to_blocks() -> None:
    spec = read_model("llama-3.1-8b")

    assert kv_bytes(spec, 17, rounding=Rounding.VLLM) == 32 * 131_072


def test_engines_refuse_by_name() -> None:
    assert "state" in str(refusal(read_model("jamba-v0.1"), rounding=Rounding.STEPWELL))
    assert "chunked" in str(refusal(read_model("llama-4-scout"), rounding=Rounding.STEPWELL))
    assert "fp8" in str(refusal(read_model("house"), KVPrecision.FP8, Rounding.STEPWELL))
    assert "int8" in str(refusal(read_model("house"), KVPrecision.INT8, Rounding.VLLM))
    assert refusal(read_model("house"), KVPrecision.INT4, Rounding.STEPWELL) is None


def test_our_engine_refuses_what_the_sweep_of_architectures_says() -> None:
    place = Path(__file__).parent.parent.parent / "bench" / "results" / "architectures.json"
    outcomes = {
        row["architecture"]: row["outcome"]
        for row in json.loads(place.read_text(encoding="utf-8"))["outcomes"]
    }
    for name in catalogue.names():
        spec = read_model(name)
        served = outcomes.get(spec.model_type, "") == "identical"
        assert (refusal(spec, rounding=Rounding.STEPWELL) is None) == served, name


def test_a_head_of_odd_size_is_refused_in_low_bits() -> None:
    spec = spec_of(
        {
            "model_type": "llama", "hidden_size": 80, "intermediate_size": 128,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64,
            "max_position_embeddings": 128,
        },
        name="x", source="x",
    )  # fmt: skip

    assert "40" in str(refusal(spec, KVPrecision.INT8, Rounding.STEPWELL))


def test_our_engine_packs_a_tied_head_beside_the_embedding() -> None:
    spec = read_model("house")
    plain, held = weight_bytes(spec), weight_bytes(spec, rounding=Rounding.STEPWELL)
    biases = 4 * sum(part.shape[0] * part.copies for part in spec.weights if part.linear)

    assert spec.tied
    assert held == plain + spec.vocab_size * spec.hidden_size * 2 + biases + 4 * spec.vocab_size


def test_windows_end_where_the_sequence_does() -> None:
    spec = read_model("mistral-7b-v0.1")
    kinds = {layer.kind for layer in spec.layers}

    assert kinds == {AttentionKind.SLIDING}
    assert kv_bytes(spec, 100) == 100 * 131_072
    assert kv_bytes(spec, 1 << 20) == 4096 * 131_072
