"""Bounds against arithmetic that is done by hand here."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.base.errors import ConfigError
from stepwell.hardware.devices import DEVICES, device
from stepwell.plan import catalogue
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.memory import weight_bytes
from stepwell.plan.read import read_model
from stepwell.plan.roofline import (
    Roofline,
    Shape,
    compute_bound_batch,
    decode_bound,
    kv_bound_batch,
    prefill_bound,
    ttft_bound,
)
from stepwell.plan.work import kv_read

A100 = device("a100-80g")


@pytest.mark.parametrize(
    ("name", "ridge"), [("a100-80g", 153), ("h200", 206), ("h100", 295), ("b200", 281), ("l4", 403)]
)
def test_ridge_points(name: str, ridge: int) -> None:
    assert round(device(name).ridge) == ridge


def test_a_step_reads_all_weights_but_the_embedding() -> None:
    spec = read_model("qwen2.5-32b")
    table = 152_064 * 5120 * 2
    read = Roofline(spec, A100).decode(batch=1, context=4096).read

    assert read == weight_bytes(spec) - table + 4096 * 262_144
    assert decode_bound(spec, A100, 1, 4096) == pytest.approx(A100.bandwidth / read)


def test_a_tied_embedding_is_read_as_the_head() -> None:
    spec = read_model("llama-3.2-1b")

    assert Roofline(spec, A100).weights_read(1) == weight_bytes(spec)


def test_experts_are_read_as_they_are_chosen() -> None:
    spec = read_model("mixtral-8x7b")
    line = Roofline(spec, A100)
    experts = 32 * 8 * 3 * 4096 * 14_336 * 2
    rest = line.weights_read(10_000) - experts

    assert line.weights_read(1) == pytest.approx(rest + experts / 4)
    assert line.weights_read(2) == pytest.approx(rest + experts * (1 - 0.75**2))


def test_arithmetic_of_a_prompt() -> None:
    spec = read_model("llama-3.1-8b")
    tokens = 1000
    layers = 32 * (4096 * 4096 * 2 + 4096 * 1024 * 2 + 3 * 4096 * 14_336)
    attention = 32 * 2 * 32 * 256 * tokens * tokens / 2
    flop = 2.0 * (tokens * layers + 128_256 * 4096) + attention

    assert Roofline(spec, A100).prefill(tokens=tokens).flop == pytest.approx(flop)
    assert ttft_bound(spec, A100, tokens) == pytest.approx(flop / 312e12)
    assert prefill_bound(spec, A100, tokens) == pytest.approx(tokens * 312e12 / flop)


def test_latent_attention_computes_much_on_what_it_reads() -> None:
    spec = read_model("deepseek-v3")
    few, many = (Roofline(spec, A100).decode(batch=1, context=n) for n in (0, 1 << 20))
    intensity = (many.flop - few.flop) / (many.read - few.read)

    assert intensity == pytest.approx(242, abs=1)  # 2 * 128 heads * (576 + 512) / (576 * 2 bytes)


def test_a_batch_where_arithmetic_takes_over() -> None:
    line = Roofline(read_model("qwen2.5-32b"), A100)
    batch = compute_bound_batch(line, context=0)

    assert batch == pytest.approx(A100.ridge, abs=2)  # two FLOP for two bytes of bf16
    assert line.computes(batch=batch, context=0) and not line.computes(batch=batch - 1, context=0)
    assert compute_bound_batch(line, context=32_768) == 0


def test_a_batch_where_kv_outweighs_the_weights() -> None:
    spec = read_model("qwen2.5-32b")
    line = Roofline(spec, A100)
    batch = kv_bound_batch(line, context=8192)

    assert batch * 8192 * 262_144 >= line.weights_read(1) > (batch - 1) * 8192 * 262_144


@settings(deadline=None)
@given(
    st.sampled_from(catalogue.names()),
    st.sampled_from(sorted(DEVICES)),
    st.integers(1, 512),
    st.integers(0, 1 << 17),
)
def test_bounds_are_bounds(name: str, on: str, batch: int, context: int) -> None:
    spec, found = read_model(name), device(on)
    one = decode_bound(spec, found, batch, context)

    assert 0 < one <= decode_bound(spec, found, batch + 1, context) * (1 + 1e-9)
    assert one >= decode_bound(spec, found, batch, context + 1000) * (1 - 1e-9)
    assert one <= batch * found.bandwidth / kv_read(spec, max(1, context), KVPrecision.MODEL) or (
        context == 0
    )


@settings(deadline=None)
@given(st.sampled_from(catalogue.names()), st.integers(1, 1 << 15), st.integers(0, 1 << 15))
def test_a_prompt_in_two_parts_is_as_much_arithmetic(name: str, first: int, second: int) -> None:
    spec = read_model(name)
    line = Roofline(spec, A100)
    if any(layer.kind == "chunked" for layer, _ in spec.kinds):
        return  # counted as half a chunk on average
    head = 2.0 * line.head
    whole = line.prefill(tokens=first + second).flop - head
    parts = line.prefill(tokens=first).flop - head
    parts += line.prefill(tokens=second, context=first).flop - head

    assert parts == pytest.approx(whole, rel=1e-6)


def test_devices_side_by_side_share_the_work_and_talk() -> None:
    spec = read_model("llama-3.1-70b")
    one, four = (Roofline(spec, A100, Shape(devices=n)) for n in (1, 4))
    times = [line.seconds(line.decode(batch=8, context=8192)) for line in (one, four)]

    assert times[0] / 4 < times[1] < times[0] / 3


def test_latents_lie_on_every_device() -> None:
    spec = read_model("deepseek-v3")

    assert Roofline(spec, A100, Shape(devices=8)).copies == 8
    assert Roofline(read_model("llama-3.1-70b"), A100, Shape(devices=8)).copies == 1


def test_fp8_is_multiplied_faster_only_where_the_device_can() -> None:
    spec = read_model("llama-3.1-8b")
    shape = Shape(weights=WeightPrecision.FP8)

    assert Roofline(spec, device("h100"), shape).rate == device("h100").flops["fp8"]
    assert Roofline(spec, A100, shape).rate == A100.flops["bf16"]


def test_devices_have_aliases_and_suggestions() -> None:
    assert device("A100").name == "a100-80g"
    assert device("RTX_4090").name == "rtx4090"
    with pytest.raises(ConfigError, match="h100"):
        device("h10")


def test_every_device_says_where_its_figures_are_from() -> None:
    for found in DEVICES.values():
        assert found.source and found.price_per_hour > 0 and found.memory_bytes > 1 << 33
