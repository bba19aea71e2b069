"""What models are made of: published counts, sizes that are known, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.base.errors import CheckpointNotFound, StepwellError, UnknownArchitecture
from stepwell.hardware.devices import device
from stepwell.plan import catalogue
from stepwell.plan.architecture import AttentionKind, Component, WeightPrecision
from stepwell.plan.families import known_types
from stepwell.plan.memory import (
    Rounding,
    fixed_bytes,
    kv_bytes,
    kv_bytes_per_token,
    states,
    weight_bytes,
)
from stepwell.plan.read import read_model, spec_of
from stepwell.plan.report import make_plan
from stepwell.plan.request import PlanRequest

# Parameters as the model cards on the Hugging Face Hub state them (safetensors metadata).
PUBLISHED = {
    "command-r-35b": 34_980_831_232,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "falcon-7b": 6_921_720_704,
    "falcon-h1-0.5b": 521_411_104,
    "falcon-mamba-7b": 7_272_665_088,
    "gemma-2-27b": 27_227_128_320,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "glm-4-32b": 32_566_081_536,
    "glm-4-9b": 9_400_279_040,
    "glm-4.5-air": 106_852_251_264,
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
    "gpt2": 124_439_808,
    "granite-3.3-8b": 8_170_864_640,
    "jamba-v0.1": 51_570_323_328,
    "kimi-k2": 1_026_408_232_448,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mamba-2.8b": 2_768_345_600,
    "mistral-7b": 7_248_023_552,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-large-123b": 122_610_069_504,
    "mistral-nemo-12b": 12_247_782_400,
    "mistral-small-24b": 23_572_403_200,
    "mixtral-8x22b": 140_620_634_112,
    "mixtral-8x7b": 46_702_792_704,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "olmo-2-7b": 7_298_617_344,
    "phi-3-medium-128k": 13_960_238_080,
    "phi-3-mini-4k": 3_821_079_552,
    "phi-3.5-moe": 41_873_153_344,
    "phi-4": 14_659_507_200,
    "phi-4-mini": 3_836_021_760,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-72b": 72_706_203_648,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-14b": 14_768_307_200,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "seed-oss-36b": 36_151_104_512,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "smollm3-3b": 3_075_098_624,
    "tinyllama-1.1b": 1_100_048_384,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_that_were_published(name: str) -> None:
    assert read_model(name).parameters == PUBLISHED[name]


def test_every_shipped_model_can_be_read() -> None:
    assert len(catalogue.names()) >= 40
    for name in catalogue.names():
        spec = read_model(name)
        assert spec.parameters >= spec.active_parameters > 0
        assert len(spec.layers) > 0
        assert spec.source


@pytest.mark.parametrize(
    ("name", "per_token", "fixed"),
    [
        ("qwen2.5-32b", 262_144, 0),
        ("qwen2.5-7b", 57_344, 0),
        ("qwen2.5-0.5b", 12_288, 0),
        ("llama-3.1-8b", 131_072, 0),
        ("llama-3.1-70b", 327_680, 0),
        ("llama-2-7b", 524_288, 0),  # one K and V for each head (MHA)
        ("falcon-7b", 8_192, 0),  # one for all (MQA)
        ("deepseek-v3", 70_272, 0),  # latents (MLA)
        ("gpt-oss-20b", 24_576, 3 << 20),  # every other layer has a window
        ("gpt-oss-120b", 36_864, 9 << 19),
        ("gemma-3-27b", 81_920, 416 << 20),
        ("mistral-7b-v0.1", 0, 512 << 20),  # all layers have one
        ("llama-4-scout", 49_152, 1152 << 20),  # three of four layers look back to their chunk
    ],
)
def test_kv_bytes(name: str, per_token: int, fixed: int) -> None:
    spec = read_model(name)

    assert kv_bytes_per_token(spec) == per_token
    assert fixed_bytes(spec) == fixed


def test_a_linear_hybrid_keeps_states() -> None:
    spec = read_model("qwen3-next-80b-a3b")
    recurrent = 36 * 32 * 128 * 128 * 4  # 72 MiB in float32
    convolutions = 36 * (2 * 16 * 128 + 32 * 128) * 4 * 2

    assert kv_bytes_per_token(spec) == 24_576
    assert states(spec) == fixed_bytes(spec) == recurrent + convolutions


def test_a_pure_state_model_grows_by_nothing() -> None:
    spec = read_model("falcon-mamba-7b")

    assert kv_bytes_per_token(spec) == 0
    assert states(spec) == 64 * (8192 * 4 * 2 + 8192 * 16 * 4)
    assert {layer.kind for layer in spec.layers} == {AttentionKind.NONE}


def test_experts_count_as_active_by_what_a_token_passes() -> None:
    spec = read_model("mixtral-8x7b")

    assert round(spec.active_parameters / 1e9, 1) == 12.9  # as its authors say
    assert round(read_model("deepseek-v3").active_parameters / 1e9, 1) == 37.6


def test_checkpoints_in_low_bits_have_their_published_size() -> None:
    assert weight_bytes(read_model("gpt-oss-20b"), WeightPrecision.MXFP4) == 13_761_264_768


def test_int4_takes_26_6_percent_of_the_matrices() -> None:
    spec = read_model("qwen2.5-32b")
    matrices = sum(part.parameters for part in spec.weights if part.linear)
    rest = spec.parameters - matrices

    assert weight_bytes(spec, WeightPrecision.INT4) == matrices * 17 // 32 + 2 * rest
    assert weight_bytes(spec, WeightPrecision.INT8) == matrices * 65 // 64 + 2 * rest


def test_a_tied_head_is_counted_once() -> None:
    spec = read_model("llama-3.2-1b")

    assert spec.tied
    assert not any(part.component is Component.HEAD for part in spec.weights)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("LLAMA-3.3-70B", "llama-3.1-70b"),
        ("deepseek-r1", "deepseek-v3"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
    ],
)
def test_a_model_has_more_than_one_name(spelled: str, name: str) -> None:
    assert read_model(spelled).name == name


def test_aliases_name_one_model_each() -> None:
    seen: dict[str, str] = {}
    for known in catalogue.models().values():
        for alias in (known.name, *known.aliases):
            assert seen.setdefault(alias.lower(), known.name) == known.name


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CheckpointNotFound, match=r"qwen2\.5-3"):
        read_model("qwen2.5-33b")


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "rwkv7"}, "rwkv7"),
        ({"model_type": ""}, "model_type"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": 1 << 50}, "hidden_size"),
        ({"hidden_size": -64}, "hidden_size"),
        ({"num_attention_heads": 5}, "head_dim"),
        ({"num_attention_heads": 0}, "head_dim"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "warp"]}, "warp"),
        ({"model_type": "qwen3", "layer_types": ["full_attention"]}, "1 layers of 2"),
    ],
)
def test_what_cannot_be_derived_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UnknownArchitecture, match=says) as caught:
        spec_of({**LLAMA, **changes}, name="x", source="x")

    assert caught.value.code == "unknown_architecture"


ODD = [None, -1, 0, "x", [], {}, 1e9, True, 2.5, float("nan"), [1], ["full_attention"], 1 << 39]
FIELDS = ["layer_types", "quantization_config", "dtype", "text_config", "no_rope_layers"]
FIELDS += ["moe_layers", "sliding_window", "head_dim", "mlp_only_layers", "attn_layer_indices"]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(catalogue.names()), st.data(), st.sampled_from(ODD))
def test_odd_fields_give_a_model_or_a_refusal(name: str, data: st.DataObject, value: Any) -> None:
    config = catalogue.models()[name].config
    field = data.draw(st.sampled_from([*config, *FIELDS]))
    try:
        spec = spec_of({**config, field: value}, name="x", source="x")
    except StepwellError:
        return
    assert weight_bytes(spec) > 0
    for rounding in (Rounding.IDEAL, Rounding.VLLM):
        assert kv_bytes(spec, 1000, rounding=rounding) >= 0
    wanted = min(1000, spec.max_positions or 1000)
    request = PlanRequest(spec=spec, device=device("h100"), context=wanted)
    assert make_plan(request).as_dict()["deployment"]["verdict"]


def test_the_text_part_of_a_multimodal_model_is_planned_and_said_so() -> None:
    spec = spec_of(
        {"model_type": "llava", "text_config": LLAMA, "vision_config": {}}, name="x", source="x"
    )

    assert spec.model_type == "llama"
    assert "vision_config" in spec.notes[0]


def test_a_packing_that_is_not_counted_is_said_so() -> None:
    quantized = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}

    assert "gptq" in spec_of(quantized, name="x", source="x").notes[0]


def save(path: Path, tensors: dict[str, tuple[int, ...]]) -> int:
    """A safetensors file of bfloat16 zeros; returns the tensors' bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        size = 2
        for side in shape:
            size *= side
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))
    return offset


def test_headers_say_what_a_checkpoint_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    size = save(tmp_path / "a.safetensors", {"x": (4, 8)}) + save(
        tmp_path / "b.safetensors", {"y": (3,)}
    )
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))

    for source in (tmp_path, index):
        assert read_model(str(source)).stored_bytes == size
    assert read_model(str(tmp_path / "a.safetensors")).stored_bytes == 64
    assert read_model(str(tmp_path / "config.json")).stored_bytes is None


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 4, struct.pack("<Q", 1 << 60), struct.pack("<Q", 3) + b"{}}"]
)
def test_a_broken_header_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "a.safetensors").write_bytes(content)

    with pytest.raises(CheckpointNotFound, match=r"a\.safetensors"):
        read_model(str(tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"model_type": 3}'])
def test_a_broken_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)

    with pytest.raises(StepwellError):
        read_model(str(tmp_path / "config.json"))


def test_the_house_model_has_the_bytes_of_its_file() -> None:
    folder = Path(__file__).parent.parent.parent / "models" / "house"
    spec = read_model(str(folder))

    assert spec.stored_bytes == weight_bytes(spec) == weight_bytes(read_model("house"))


def test_many_kinds_of_models_are_known() -> None:
    assert len(list(known_types())) >= 50
