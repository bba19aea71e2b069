"""Medians, ratios of shared rounds, and the promised names in the summary."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from stepwell.evaluate.ceiling import ModelCost
from stepwell.evaluate.speed_options import Part
from stepwell.evaluate.speed_summary import Sample, part_section, ratio, summarize
from stepwell.evaluate.speed_table import result_table

CEILING = {
    "bandwidth_one": 1e9, "bandwidth_all": 2e9, "flops_one": 1e12, "flops_all": 2e12,
    "int8_all": None, "threads": 2,
}  # fmt: skip
COST = ModelCost(
    parameters=1, head_parameters=1, decode_bytes=400, kv_bytes=1, attention_width=1
).as_dict()
LOADED = {
    "stepwell bf16": {
        "cost": COST,
        "weights": {"total": 400, "linear": 300, "linear_plain": 300},
    },
    "stepwell int4": {
        "cost": COST,
        "weights": {"total": 180, "linear": 80, "linear_plain": 300},
    },
    "rival int4": {"weight_bytes": 150},
}


def sample(number: int, part: Part, variant: str, rate: float, **figures: float) -> Sample:
    return Sample(number, part.value, variant, {"tokens_per_s": rate, **figures}, 0.5, CEILING)


SAMPLES = [
    sample(0, Part.DECODE, "stepwell bf16", 10.0),
    sample(1, Part.DECODE, "stepwell bf16", 20.0),
    sample(1, Part.DECODE, "stepwell int4", 50.0),
    sample(1, Part.DECODE, "rival int4", 40.0),
    sample(2, Part.DECODE, "rival int4", 1.0),
    sample(1, Part.PREFILL, "stepwell bf16", 900.0, warm_ttft_s=0.25),
    sample(1, Part.BATCH, "stepwell bf16", 150.0, lengths=0.25),
]


def test_ratios_pair_what_the_same_round_measured() -> None:
    decode = [s for s in SAMPLES if s.part == "decode"]
    assert ratio(decode, "stepwell int4", "stepwell bf16") == 2.5
    assert ratio(decode, "stepwell int4", "rival int4") == 1.25
    assert ratio(decode[:1], "stepwell bf16", "rival int4") is None


def test_the_summary_has_every_promised_name() -> None:
    found = summarize(SAMPLES, LOADED, None)
    assert found["read_gbps"] == 2.0
    assert found["int8_gemm_tops"] is None
    assert found["decode_tps_bf16"] == 15.0
    assert found["decode_share_of_bound_bf16"] == 0.5
    assert found["decode_tps_int8"] is None
    assert found["decode_int4_over_bf16"] == 2.5
    assert found["batch32_tps_bf16"] == 150.0
    assert found["batch32_tps_int8"] is None
    assert found["prefill_tps_bf16"] == 900.0
    assert found["weights_bytes_int4_share"] == pytest.approx(80 / 300)
    assert found["weights_bytes_int8_share"] is None
    assert found["warm_ttft_s_bf16"] == 0.25
    assert found["rivals"] == {"rival int4": {"decode": 1.25, "warm_ttft_s": None}}


def test_a_table_says_who_is_faster_than_whom_and_what_was_cut() -> None:
    order = ["stepwell bf16", "stepwell int4", "rival int4"]
    decode = part_section(Part.DECODE, SAMPLES, LOADED, order)
    plain, own, rival = decode.rows
    assert plain[4:] == ("-", "-")
    assert own[4:] == ("-", "2.50x")
    assert rival[3:] == ("150 B", "1.25x", "-")
    assert len(decode.columns) == len(plain)
    assert "0.25" in part_section(Part.BATCH, SAMPLES, LOADED, order).title
    assert "no time" not in decode.title


def test_the_page_has_a_row_for_each_contestant_by_format() -> None:
    lines = result_table({"samples": [asdict(s) for s in SAMPLES], "loaded": LOADED})
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "stepwell bf16", "stepwell int4", "rival int4",
    ]  # fmt: skip
    assert "15 (10 to 20), 50%" in lines[2]
    assert "250.0 ms" in lines[2]
    assert "20 (1 to 40), 1.25x" in lines[4]
