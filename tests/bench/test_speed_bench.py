"""`stepwell bench speed` from end to end, with contestants of plain Python and with a real one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.cli.bench import app
from stepwell.evaluate import speed_bench, speed_field, speed_start
from stepwell.evaluate.contestants import Contestant, ContestantFailed
from stepwell.evaluate.options import Section
from stepwell.evaluate.speed_options import PLAIN, Part, Sizes, SpeedOptions, Variant

FAKE = """
import sys, time
from stepwell.evaluate.protocol import serve_contestant
from stepwell.evaluate.statistics import first_token_figures
name, rate = sys.argv[1], float(sys.argv[2])
cost = dict(parameters=1000, head_parameters=100, decode_bytes=2200, kv_bytes=8, attention_width=4)
weights = dict(total=2200, linear=2000, linear_plain=2000)
def load(model, settings=None, weights=None):
    if name == "broken":
        raise ValueError("no such weights")
    return dict(seconds=0.1, vocab_size=5000, cost=cost, weights=WEIGHTS, engine=name)
def ceiling(quick):
    return dict(bandwidth_one=1e6, bandwidth_all=2e6, flops_one=1e6, flops_all=2e6, threads=2,
                int8_all=None)
def ttft(prompts, max_tokens, warm):
    step = 1 / rate
    return first_token_figures([len(prompts[0]) * step / 10], [step] * warm, [step] * max_tokens)
def decode(prompt, max_tokens, turns=1):
    piece = dict(tokens=10, seconds=10 / rate, context=len(prompt), read_rate=1e6)
    return dict(ttft=[1.0], decode_rate=rate, pieces=[piece])
def run(requests):
    if name == "short":
        return dict(complete=False)
    tokens = sum(request["max_tokens"] for request in requests)
    return dict(complete=True, output_tokens=tokens, seconds=tokens / rate / 5)
WEIGHTS = weights
serve_contestant(dict(load=load, ceiling=ceiling, ttft=ttft, decode=decode,
                         run=run))
"""
TINY = Sizes(warm=40, short=8, decode=4, prefill=64, requests=4, lengths=0.02)
TIMED = (Part.DECODE, Part.PREFILL, Part.BATCH)


def rival(engine: str) -> Variant:
    return Variant(engine=engine, weights="bf16")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stepwell at 50 tokens/s, rivals at 40; `nowhere` is not installed."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def make(name: str, rate: float) -> Contestant:
        command = (sys.executable, str(script), name, str(rate))
        return Contestant(name=name, command=command, log=tmp_path / f"{name}.log")

    def other(name: str, **_: Any) -> Contestant:
        if name == "nowhere":
            raise ContestantFailed("nowhere: not installed.", hint=str(tmp_path))
        return make(name, 40.0)

    monkeypatch.setattr(speed_field, "stepwell_contestant", lambda **_: make("stepwell", 50.0))
    monkeypatch.setattr(speed_field, "rival_contestant", other)
    for module in (speed_field, speed_bench):  # other tests may be running
        monkeypatch.setattr(module, "wait_until_quiet", lambda most: True)


def run(
    tmp_path: Path, *, earlier: dict[str, Any] | None = None, **choices: Any
) -> tuple[dict[str, Any], list[Section]]:
    sections: list[Section] = []
    options = SpeedOptions(
        **{"model": str(tmp_path), "parts": TIMED, "rounds": 2, "workdir": tmp_path, **choices}
    )
    result = speed_bench.run_speed_bench(
        options, on_section=sections.append, say=lambda text: None, earlier=earlier
    )
    return result, sections


@pytest.mark.usefixtures("fakes")
def test_everyone_takes_turns_and_who_cannot_is_named_with_the_reason(tmp_path: Path) -> None:
    variants = (PLAIN, *map(rival, ("good", "short", "broken", "nowhere")))
    result, sections = run(tmp_path, variants=variants)
    assert [section.name for section in sections] == ["ceiling", "decode", "prefill", "batch"]
    turns = [(s["round"], s["variant"]) for s in result["samples"] if s["part"] == "decode"]
    order = ["stepwell bf16", "good bf16", "short bf16"]
    assert turns == [(number, label) for number in range(2) for label in order]
    summary = result["summary"]
    assert summary["decode_tps_bf16"] == pytest.approx(50)
    assert summary["prefill_tps_bf16"] == pytest.approx(500)
    assert summary["batch32_tps_bf16"] == pytest.approx(250)
    read = 2200 + 8 * Sizes().short  # bytes a token; pieces read 1e6 bytes/s beside them
    assert summary["decode_share_of_bound_bf16"] == pytest.approx(50 * read / 1e6)
    assert summary["read_beside_decode_gbps"] == pytest.approx(1e-3)
    assert summary["rivals"]["good bf16"]["batch32"] == pytest.approx(1.25)
    assert set(summary["rivals"]) == {"good bf16", "short bf16"}
    assert "batch32" not in summary["rivals"]["short bf16"]
    missing = result["missing"]
    assert "wrong length" in missing["short bf16 batch"]
    assert "no such weights" in missing["broken bf16"]
    assert missing["nowhere bf16"] == "nowhere: not installed."
    assert str(tmp_path) not in json.dumps({**result, "summary": None})


@pytest.mark.usefixtures("fakes")
def test_rounds_can_be_added_to_the_same_measurements_only(tmp_path: Path) -> None:
    first, _ = run(tmp_path, variants=(PLAIN, rival("nowhere")), rounds=1)
    more, _ = run(tmp_path, variants=(PLAIN, rival("good")), rounds=1, earlier=first)
    assert {s["round"] for s in more["samples"]} == {0, 1}
    assert set(more["loaded"]) == {"stepwell bf16", "good bf16"}
    assert more["missing"] == first["missing"]
    assert more["seconds"] >= first["seconds"]
    with pytest.raises(ConfigError, match="sizes"):
        run(tmp_path, sizes=TINY, earlier=first)


@pytest.mark.usefixtures("fakes")
def test_each_part_of_a_round_is_kept_and_a_run_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    options = SpeedOptions(
        model=str(tmp_path), parts=TIMED, rounds=2, workdir=tmp_path, variants=(PLAIN,)
    )
    kept: list[dict[str, Any]] = []

    def keep(result: dict[str, Any]) -> None:
        kept.append(json.loads(json.dumps(result)))
        if len(kept) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        speed_bench.run_speed_bench(
            options, on_section=lambda _: None, say=lambda _: None, keep=keep
        )
    assert [len(result["samples"]) for result in kept] == [1, 2, 3, 4]
    assert kept[-1]["summary"]["batch32_tps_bf16"] == pytest.approx(250)
    whole, _ = run(tmp_path, variants=(PLAIN,), rounds=1, earlier=kept[-1])
    assert len(whole["samples"]) == 7


@pytest.mark.usefixtures("fakes")
def test_a_plan_leaves_out_what_it_has_no_time_for(tmp_path: Path) -> None:
    sizes = Sizes(lengths=0.0)
    plenty, _ = run(tmp_path, variants=(PLAIN,), sizes=sizes, rounds=1, seconds=1e9)
    (batch,) = [s for s in plenty["samples"] if s["part"] == "batch"]
    assert batch["figures"]["lengths"] == 1.0
    little, _ = run(tmp_path, variants=(PLAIN,), sizes=sizes, rounds=1, seconds=20.0)
    (batch,) = [s for s in little["samples"] if s["part"] == "batch"]
    assert batch["figures"]["lengths"] < 1.0
    none, _ = run(tmp_path, variants=(PLAIN,), sizes=sizes, rounds=1, seconds=0.0)
    assert none["samples"] == []
    assert none["missing"]["stepwell bf16 decode"] == "no time was left for it"
    assert none["summary"]["decode_tps_bf16"] is None


def test_a_real_engine_on_a_tiny_model(tiny_shape: Path, tmp_path: Path) -> None:
    result, sections = run(tmp_path, model=str(tiny_shape), variants=(PLAIN,), sizes=TINY, rounds=1)
    assert {s["part"] for s in result["samples"]} == {"decode", "prefill", "batch"}
    assert "read bandwidth" in sections[0].rows[0][0]
    assert result["summary"]["batch32_tps_bf16"] > 0
    assert result["loaded"]["stepwell bf16"]["weights"]["total"] > 0
    assert result["missing"] == {}


def test_the_start_is_a_process_to_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 2.0, 3.0, 4.0, 20.0])
    seen: list[dict[str, str]] = []

    def start(environment: dict[str, str]) -> float:
        seen.append(environment)
        return next(seconds)

    monkeypatch.setattr(speed_start, "first_token_seconds", start)
    found = speed_start.measure_start(rounds=3, say=lambda text: None)
    assert found["first_token_s"]["median"] == 3.0
    assert found["compile_s"] == 17.0
    assert [bool(environment) for environment in seen] == [False] * 4 + [True]


def test_help_has_an_example_and_wrong_options_help() -> None:
    result = CliRunner().invoke(app, ["speed", "--help"], env={"COLUMNS": "200"})
    assert "stepwell bench speed --quick" in result.output
    for arguments, word in (
        (["--only", "start,dance"], "decode"),
        (["--variants", "int3"], "stepwell int4"),
        (["--add"], "--out"),
        (["--rounds", "-1"], "at least 1"),
    ):
        failed = CliRunner().invoke(app, ["speed", *arguments])
        assert isinstance(failed.exception, ConfigError)
        assert word in str(failed.exception)
