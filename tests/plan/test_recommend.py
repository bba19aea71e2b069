"""Levers, serving in the steady state, cost, and settings that our own reader takes."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.base.units import parse_bytes
from stepwell.hardware.devices import DEVICES, Device, device
from stepwell.plan import catalogue
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.cost import cost_of_load, cost_per_million
from stepwell.plan.emit import serve_command, stepwell_toml
from stepwell.plan.explain import decisions
from stepwell.plan.read import read_model
from stepwell.plan.recommend import Wishes
from stepwell.plan.report import Plan, make_plan
from stepwell.plan.request import PlanRequest
from stepwell.plan.roofline import Efficiency
from stepwell.plan.serving import BUSY, kept_sessions, serve
from stepwell.plan.setup import Codec, Engine, Setup, Tiers
from stepwell.plan.workload import (
    PRESETS,
    Slo,
    format_tokens,
    make_workload,
    parse_slo,
    parse_tokens,
)

HERE = Device(
    name="cpu", title="a test's machine", memory_bytes=32 << 30, bandwidth=40e9,
    flops={"bf16": 8e11}, host_link=1e10, peer_link=1e10, price_per_hour=0.0, source="a test",
)  # fmt: skip
CHAT = make_workload("chat", context=4096, longest=16_384)


def plan(model: str, on: str | Device, **wanted: object) -> Plan:
    wishes = {k: wanted.pop(k) for k in ("devices", "weights", "kv", "tiers") if k in wanted}
    found = on if isinstance(on, Device) else device(on)
    return make_plan(
        PlanRequest(spec=read_model(model), device=found, wishes=Wishes(**wishes), **wanted)  # type: ignore[arg-type]
    )


def setup(model: str, on: str, **fields: object) -> Setup:
    spec = read_model(model)
    return Setup(spec=spec, device=device(on), engine=Engine.VLLM, **fields)  # type: ignore[arg-type]


def test_the_steady_state_balances() -> None:
    found = serve(setup("llama-3.1-8b", "h100"), CHAT, Efficiency.LIKELY)
    assert found is not None
    decoding = found.requests_per_s * CHAT.output * found.step_seconds / found.batch
    prompts = found.requests_per_s * found.prompt_seconds

    assert decoding + prompts == pytest.approx(BUSY)
    waiting = CHAT.think + found.ttft + CHAT.output * found.tpot
    assert found.users == pytest.approx(found.requests_per_s * waiting)
    assert found.tpot <= CHAT.slo.tpot and found.ttft <= CHAT.slo.ttft


def test_sessions_beyond_what_is_kept_are_computed_again() -> None:
    small = setup("llama-3.1-8b", "rtx4090")
    large = replace(small, tiers=Tiers(host=256 << 30))
    patient = replace(CHAT, slo=Slo())
    few, many = (serve(each, patient, Efficiency.LIKELY) for each in (small, large))
    assert few is not None and many is not None

    assert few.missed > 0.5 and many.missed == pytest.approx(0.0, abs=0.05)
    assert many.users > 1.5 * few.users
    assert kept_sessions(large, patient, 1)[1] == (256 << 30) // (4096 * 131_072)


def test_faster_engines_serve_more() -> None:
    found = [serve(setup("llama-3.1-8b", "h100"), CHAT, e) for e in Efficiency]
    users = [each.users for each in found if each is not None]

    assert len(users) == len(found) and users == sorted(users)


def test_cost_is_the_price_of_the_time_that_tokens_take() -> None:
    here = setup("llama-3.1-8b", "h100")
    found = serve(here, CHAT, Efficiency.LIKELY)
    assert found is not None
    cost = cost_per_million(here, CHAT, found)
    tokens = found.output_rate(CHAT), found.input_rate(CHAT)

    paid = (cost.output * tokens[0] + cost.input * tokens[1]) / 1e6
    assert paid == pytest.approx(here.device.price_per_hour / 3600)
    assert paid == pytest.approx(cost.blended * sum(tokens) / 1e6)
    half = replace(CHAT, users=round(found.users / 2))
    assert cost_of_load(1, here, half, found) == pytest.approx(2 * cost.blended, rel=0.02)


def test_levers_come_in_order_and_add_up() -> None:
    found = plan("qwen2.5-32b", "a100-80g")
    steps = found.recommendation.steps
    users = [step.users_after for step in steps if step.lever not in ("batch", "replicas")]

    assert [step.lever for step in steps][:3] == ["parallelism", "paging", "prefix reuse"]
    assert users == sorted(users)
    assert all(step.gain and step.cost and step.risk for step in steps)
    assert found.recommendation.served[Efficiency.LIKELY].users == pytest.approx(users[-1])


def test_what_is_not_needed_is_not_taken() -> None:
    found = plan("qwen2.5-7b", "h100", users=5)
    taken = {step.lever for step in found.recommendation.steps if step.is_taken}

    assert found.recommendation.groups == 1
    assert not taken & {"weights", "KV precision", "host tier", "codec", "replicas"}
    assert found.recommendation.setup.weights is WeightPrecision.BF16


def test_many_users_need_copies() -> None:
    found = plan("llama-3.1-8b", "h100", users=5000, context=32_768).recommendation
    likely = found.served[Efficiency.LIKELY]

    assert found.steps[-1].lever == "replicas"
    assert (found.groups - 1) * likely.users < 5000 <= found.groups * likely.users


def test_too_few_devices_are_said_to_be_too_few() -> None:
    found = plan("llama-3.1-8b", "l4", users=10_000, devices=2).recommendation

    assert "of 10000 users" in found.verdict
    assert found.groups * found.setup.devices <= 2


def test_what_does_not_fit_fails_closed_and_says_what_would() -> None:
    document = plan("llama-3.1-405b", "l4").as_dict()
    found = document["deployment"]

    assert not document["fits"] and document["free_bytes"] == 0
    assert document["memory"]["lacking_bytes"] > 0
    assert not found["fits"] and "does not fit" in found["verdict"]
    assert len(found["would_fit"]) == 3 and "command" not in found
    assert document["recommendation"] == []


def test_what_does_not_fit_here_can_come_from_disk() -> None:
    found = plan("llama-3.1-70b", HERE).as_dict()["deployment"]

    assert not found["fits"]
    assert "--weights int4 --weights-budget" in found["would_fit"][0]


def test_objectives_that_nothing_meets_are_said_to_be_unmet() -> None:
    found = plan("llama-3.1-70b", "a100-80g", slo="tpot=1ms").recommendation

    assert found.fits and not found.within
    assert "not within the objectives" in found.verdict


def test_given_precisions_are_kept() -> None:
    found = plan(
        "qwen2.5-7b", "h100", weights=WeightPrecision.FP8, kv=KVPrecision.FP8
    ).recommendation

    assert found.setup.weights is WeightPrecision.FP8 and found.setup.kv is KVPrecision.FP8


def test_intervals_are_ordered() -> None:
    found = plan("llama-3.1-8b", "h100").recommendation
    low, likely, high = (
        found.served[each] for each in (Efficiency.LOW, Efficiency.LIKELY, Efficiency.HIGH)
    )

    assert low.tpot > likely.tpot > high.tpot and low.ttft > likely.ttft > high.ttft
    assert low.users < likely.users < high.users
    costs = [found.cost[each].blended for each in found.cost]
    assert costs == sorted(costs, reverse=True)


def settings_of(made: Plan, folder: Path) -> tuple[str, str]:
    found = made.recommendation
    likely = found.served[Efficiency.LIKELY]
    text = stepwell_toml(found.setup, made.workload, likely)
    assert text is not None
    (folder / "stepwell.toml").write_text(text)
    return text, str(folder / "stepwell.toml")


@pytest.mark.parametrize("model", ["house", "qwen2.5-0.5b", "llama-3.1-8b", "gemma-3-1b", "phi-4"])
@pytest.mark.parametrize("workload", PRESETS)
def test_our_own_reader_takes_the_settings(tmp_path: Path, model: str, workload: str) -> None:
    made = plan(
        model, HERE, workload_name=workload, context=1024, tiers=Tiers(host=1 << 30, disk=8 << 30)
    )
    _, path = settings_of(made, tmp_path)
    config = load_config(Path(path))
    found = made.recommendation

    assert config.scheduler.max_sequences == found.served[Efficiency.LIKELY].batch
    assert parse_bytes(config.cache.pool) <= found.setup.free
    assert config.scheduler.max_step_tokens >= config.scheduler.max_sequences
    weights = found.setup.weights
    assert config.model.weights == ("checkpoint" if weights == "bf16" else weights)
    assert config.model.kv == found.setup.kv


def test_our_engine_on_an_accelerator_has_what_it_has_there(tmp_path: Path) -> None:
    spec = read_model("llama-3.1-8b")
    wishes = Wishes(engine=Engine.STEPWELL)
    made = make_plan(PlanRequest(spec=spec, device=device("h100"), wishes=wishes))
    _, path = settings_of(made, tmp_path)
    config = load_config(Path(path))

    assert made.recommendation.setup.devices == 1
    assert config.model.device == "cuda"
    assert (config.model.weights, config.model.kv) == ("checkpoint", "model")
    assert config.tiers.host_codec in ("raw", "lossless", "kvtc")


def test_settings_name_tiers_and_codecs(tmp_path: Path) -> None:
    made = plan("qwen2.5-0.5b", HERE)
    found = made.recommendation
    setup = replace(found.setup, tiers=Tiers(host=1 << 30, disk=4 << 30), codec=Codec.LOSSLESS)
    text = stepwell_toml(setup, made.workload, found.served[Efficiency.LIKELY])
    assert text is not None
    (tmp_path / "x.toml").write_text(text)
    tiers = load_config(tmp_path / "x.toml").tiers

    assert (tiers.host, tiers.disk_capacity) == ("1024MiB", "4096MiB")
    assert tiers.host_codec == tiers.disk_codec == "lossless"


def test_a_path_with_quotes_survives(tmp_path: Path) -> None:
    made = plan("house", HERE)
    found = made.recommendation
    spec = replace(found.setup.spec, path='a "b" \\c')
    text = stepwell_toml(
        replace(found.setup, spec=spec), made.workload, found.served[Efficiency.LIKELY]
    )
    assert text is not None
    (tmp_path / "x.toml").write_text(text)

    assert load_config(tmp_path / "x.toml").model.path == 'a "b" \\c'


def test_a_line_for_vllm() -> None:
    made = plan("llama-3.1-70b", "h100", devices=4)
    found = made.recommendation
    likely = found.served[Efficiency.LIKELY]
    words = shlex.split(serve_command(found.setup, made.workload, likely))

    assert words[:3] == ["vllm", "serve", "meta-llama/Llama-3.1-70B-Instruct"]
    assert words[words.index("--max-num-seqs") + 1] == str(likely.batch)
    assert ("--tensor-parallel-size" in words) == (found.setup.devices > 1)


def test_precisions_that_vllm_makes_itself_are_in_its_line() -> None:
    made = plan("qwen2.5-7b", "a100-80g", weights=WeightPrecision.INT8)
    found = made.as_dict()["deployment"]

    assert "--quantization int8_per_channel_weight_only" in found["command"]
    assert found["command_note"] == ""
    four = plan("qwen2.5-7b", "a100-80g", weights=WeightPrecision.INT4).as_dict()["deployment"]
    assert "--quantization" not in four["command"] and "int4" in four["command_note"]


def test_models_that_ours_does_not_serve_go_to_vllm() -> None:
    found = plan("falcon-h1-0.5b", HERE).recommendation

    assert found.setup.engine is Engine.VLLM and "state" in found.engine_why


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(catalogue.names()),
    st.sampled_from(sorted(DEVICES)),
    st.sampled_from(sorted(PRESETS)),
    st.integers(1, 2000),
    st.sampled_from([0, 1, 3, 8]),
)
def test_every_model_on_every_device_gets_an_answer(
    model: str, on: str, workload: str, users: int, devices: int
) -> None:
    made = plan(model, on, workload_name=workload, users=users, devices=devices, context=1000)
    document = made.as_dict()
    found = document["deployment"]

    assert found["verdict"]
    assert found["fits"] == ("command" in found) == bool(document["recommendation"])
    assert decisions(made)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ttft=2s", Slo(ttft=2.0, tpot=0.05)),
        ("tpot=50ms, ttft=900ms", Slo(ttft=0.9, tpot=0.05)),
        ("", Slo(ttft=1.0, tpot=0.05)),
    ],
)
def test_objectives_are_read(text: str, expected: Slo) -> None:
    assert parse_slo(text, PRESETS["chat"].slo) == expected


@pytest.mark.parametrize("text", ["ttft", "ttft=1", "latency=1s", "ttft=0s", "ttft=-1s", "tpot=1m"])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ttft=1s"):
        parse_slo(text, Slo())


@pytest.mark.parametrize(("text", "count"), [("32k", 32_768), ("1M", 1 << 20), ("1000", 1000)])
def test_lengths_are_read(text: str, count: int) -> None:
    assert parse_tokens(text) == count
    assert parse_tokens(format_tokens(count).replace(",", "")) == count


@pytest.mark.parametrize("text", ["", "k", "-1", "0", "1g", "1e3"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_tokens(text)


def test_a_context_beyond_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="32,768"):
        plan("qwen2.5-7b", "h100", context=40_000)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(ConfigError, match="chat"):
        plan("qwen2.5-7b", "h100", workload_name="chatt")
