"""Quantized checkpoints of every readable format against the weights that they stand for.

Each is written by its own library or by hand after the format's documentation. The truth is the
same tensors dequantized by independent code (or by the library), saved plainly, and generated from
by transformers. Without the package, what is tested is the refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from stepwell.base.errors import UnsupportedCheckpointFormat  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.model.checkpoint_formats import (  # noqa: E402
    FORMATS,
    check_blocks,
    check_format,
    check_names,
    check_plain,
)
from stepwell.model.identity import Coverage, weights_manifest  # noqa: E402

Checkpoint = Callable[..., Path]
COMPRESSED = {"quant_method": "compressed-tensors", "format": "int-quantized"}
PROMPTS = [[5, 17, 200, 31], list(range(40, 90)), [3] * 9 + [77]]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}


def truth_of(folder: Path, count: int = 12) -> list[list[int]]:
    """transformers' greedy tokens, sdpa attention, float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return generated(model, count)


def generated(model: Any, count: int = 12) -> list[list[int]]:
    answers = []
    for prompt in PROMPTS:
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(count):
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                ids.append(int(logits.argmax()))
        answers.append(ids[len(prompt) :])
    return answers


def ours(path: Path, count: int = 12) -> tuple[list[list[int]], dict[str, Any]]:
    llm = LLM(str(path), model__dtype="float32", cache__pool="8MiB")
    sampling = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    tokens = [done.token_ids for done in llm.generate(PROMPTS, sampling)]
    decisions = {d.name: d for d in llm.built.decisions}
    llm.close()
    return tokens, decisions


def is_linear(name: str) -> bool:
    return name.endswith("_proj.weight")


def write(folder: Path, source: Path, tensors: dict[str, Any], settings: dict | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((source / "config.json").read_text())
    if settings is not None:
        config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    return folder


def pack_nibbles(values: Any, bits: int, order: list[int]) -> Any:
    """By the bit, one integer after another: [rows, columns] -> int32 [rows, columns / per]."""
    per = 32 // bits
    rows, columns = values.shape
    out = torch.zeros(rows, columns // per, dtype=torch.int64)
    for column in range(columns // per):
        for place in range(per):
            out[:, column] |= values[:, column * per + order[place]].long() << (bits * place)
    return torch.where(out >= 2**31, out - 2**32, out).to(torch.int32)


def by_hand(weight: Any, method: str, bits: int, group: int, shuffled: bool) -> tuple[dict, Any]:
    """(stored parts, true weight) of a linear layer with weight [N, K]."""
    outputs, inputs = weight.shape
    generator = torch.Generator().manual_seed(inputs + outputs)
    top = 2**bits
    q = torch.randint(0, top, (inputs, outputs), generator=generator)
    z = torch.randint(1, top, (inputs // group, outputs), generator=generator)
    scales = torch.rand(inputs // group, outputs, generator=generator).half() * (2.0 / top)
    index = torch.arange(inputs) // group
    if shuffled:
        index = index[torch.randperm(inputs, generator=generator)]
    true = ((q - z[index]).float() * scales.float()[index]).T.contiguous()
    if method == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        parts = {"qweight": pack_nibbles(q, 4, order), "qzeros": pack_nibbles(z, 4, order)}
    else:
        order = list(range(32 // bits))
        parts = {
            "qweight": pack_nibbles(q.T, bits, order).T,
            "qzeros": pack_nibbles(z - 1, bits, order),
            "g_idx": index.to(torch.int32),
        }
    return parts | {"scales": scales}, true


@pytest.mark.parametrize(
    ("method", "bits", "group", "shuffled"),
    [
        ("gptq", 4, 32, False),
        ("gptq", 4, 32, True),
        ("gptq", 8, 64, False),
        ("gptq", 2, 16, False),
        ("awq", 4, 32, False),
    ],
)
def test_packed_integers(
    method: str, bits: int, group: int, shuffled: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = checkpoint("qwen2", **SIZES)
    packed, plain = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if is_linear(name):
            parts, true = by_hand(tensor, method, bits, group, shuffled)
            owner = name.removesuffix("weight")
            packed |= {owner + part: value for part, value in parts.items()}
            plain[name] = true
        else:
            packed[name] = plain[name] = tensor
    settings = {"quant_method": method, "bits": bits, "group_size": group, "version": "gemm"}
    folder = write(tmp_path / "packed", source, packed, settings)
    tokens, decisions = ours(folder)
    assert tokens == truth_of(write(tmp_path / "plain", source, plain, None))
    assert "activations are not quantized" in decisions["model.checkpoint_format"].because


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes(bits: int, checkpoint: Checkpoint, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}
    if find_spec("bitsandbytes") is None or find_spec("accelerate") is None:
        refused(settings, "bitsandbytes")
        return
    from transformers import BitsAndBytesConfig

    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    wanted = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, **(four if bits == 4 else {}))
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama", **SIZES), quantization_config=wanted, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "bnb")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "bnb", dtype=torch.float32)
    assert ours(tmp_path / "bnb")[0] == generated(read.dequantize(torch.float32))


@pytest.mark.parametrize("kind", ["Int8WeightOnlyConfig"])
def test_torchao(kind: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    if find_spec("torchao") is None:
        refused({"quant_method": "torchao"}, "torchao")
        return
    import torchao.quantization as ao
    from transformers import TorchAoConfig

    model = AutoModelForCausalLM.from_pretrained(
        checkpoint("llama", **SIZES),
        quantization_config=TorchAoConfig(getattr(ao, kind)(version=2)),
        dtype=torch.float32,
    )
    model.save_pretrained(tmp_path / "ao")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "ao", dtype=torch.float32)
    assert ours(tmp_path / "ao")[0] == generated(read)


@pytest.mark.parametrize("kind", ["int-quantized", "pack-quantized", "float-quantized"])
def test_compressed_tensors(kind: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    bits = 4 if kind == "pack-quantized" else 8
    group = 32 if bits == 4 else None
    weights = {
        "num_bits": bits,
        "type": "float" if kind == "float-quantized" else "int",
        "symmetric": True,
        "strategy": "group" if group else "channel",
        "group_size": group,
        "dynamic": False,
    }
    settings = {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    if find_spec("compressed_tensors") is None:
        refused(settings, "compressed-tensors")
        return
    source = checkpoint("llama", **SIZES)
    stored, plain = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not is_linear(name):
            stored[name] = plain[name] = tensor
            continue
        owner = name.removesuffix("weight")
        generator = torch.Generator().manual_seed(len(stored))
        n, k = tensor.shape
        columns = k // group if group else 1
        scales = torch.rand(n, columns, generator=generator) * (0.05 if bits == 4 else 0.005)
        if kind == "float-quantized":
            levels = (tensor * 20).to(torch.float8_e4m3fn)
            stored[owner + "weight"] = levels
        else:
            low = -(2 ** (bits - 1))
            levels = torch.randint(low, -low, (n, k), generator=generator)
            if bits == 8:
                stored[owner + "weight"] = levels.to(torch.int8)
            else:
                order = list(range(8))
                stored[owner + "weight_packed"] = pack_nibbles(levels - low, 4, order)
                stored[owner + "weight_shape"] = torch.tensor([n, k])
        stored[owner + "weight_scale"] = scales
        plain[name] = levels.float() * scales.repeat_interleave(group or k, dim=1)
    folder = write(tmp_path / "packed", source, stored, settings)
    assert ours(folder)[0] == truth_of(write(tmp_path / "plain", source, plain, None))


def test_fp8_in_blocks(checkpoint: Checkpoint, tmp_path: Path) -> None:
    settings = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
    }
    if find_spec("accelerate") is None:
        refused(settings, "accelerate")
        return
    source = checkpoint("qwen3", **SIZES, num_key_value_heads=4)
    stored, plain = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if not is_linear(name):
            stored[name] = plain[name] = tensor
            continue
        n, k = tensor.shape
        scales = torch.rand(n // 128, k // 128) * 0.02 + 0.01
        stored[name] = (tensor * 50).to(torch.float8_e4m3fn)
        stored[name + "_scale_inv"] = scales
        wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
        plain[name] = stored[name].float() * wide
    folder = write(tmp_path / "packed", source, stored, settings)
    assert ours(folder)[0] == truth_of(write(tmp_path / "plain", source, plain, None))


def refused(settings: dict[str, Any], package: str) -> None:
    with pytest.raises(UnsupportedCheckpointFormat, match=package) as caught:
        check_format(settings)
    assert "stepwell[formats]" in caught.value.hint


@pytest.mark.parametrize("method", sorted(FORMATS))
def test_missing_package_is_named(method: str) -> None:
    packages = FORMATS[method].packages
    if not packages:
        assert check_format({"quant_method": method}).method == method
        return
    settings = COMPRESSED | {"config_groups": {"a": {}}, "quant_method": method}
    with pytest.raises(UnsupportedCheckpointFormat, match=method) as caught:
        check_format(settings, installed=lambda name: None)
    assert "stepwell[formats]" in caught.value.hint


@pytest.mark.parametrize("method", ["hqq", "quanto", "aqlm", "nvfp4", "?"])
def test_unknown_method_is_refused(method: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = checkpoint("llama")
    tensors = load_file(source / "model.safetensors")
    folder = write(tmp_path / "odd", source, tensors, {"quant_method": method})
    with pytest.raises(UnsupportedCheckpointFormat, match="no reader") as caught:
        LLM(str(folder))
    assert "gptq" in caught.value.hint


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 3, "group_size": 32},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
    ],
    ids=["3 bits", "marlin", "gemv", "other tensors"],
)
def test_other_packings_are_refused(
    settings: dict[str, Any], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = checkpoint("llama")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.qweight"] = torch.zeros(8, 96, dtype=torch.int32)
    folder = write(tmp_path / "odd", source, tensors, settings)
    with pytest.raises(UnsupportedCheckpointFormat):
        LLM(str(folder))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (COMPRESSED | {"format": "marlin-24"}, "marlin-24"),
        (COMPRESSED | {"config_groups": {"a": {}, "b": {}}}, "2 groups"),
        (COMPRESSED | {"config_groups": {"a": {}}, "transform_config": {"x": 1}}, "rotated"),
        (
            COMPRESSED | {"config_groups": {"a": {}}, "sparsity_config": {"format": "sparse-24"}},
            "pruned",
        ),
    ],
)
def test_compressed_tensors_of_other_kinds(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedCheckpointFormat, match=reason):
        check_format(settings, installed=lambda name: True)


def test_fp8_blocks_must_divide_the_weight() -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    shapes = {"a.weight": (192, 128), "a.weight_scale_inv": (2, 1)}
    with pytest.raises(UnsupportedCheckpointFormat, match="do not divide"):
        check_blocks(settings, shapes)
    check_blocks(settings, shapes | {"a.weight": (256, 128)})


@pytest.mark.parametrize("kind", ["unexpected_keys", "missing_keys", "mismatched_keys"])
def test_tensors_without_a_place_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedCheckpointFormat, match="weight_g_idx"):
        check_names({kind: {"layer.weight_g_idx"}}, method="compressed-tensors")
    check_names({"unexpected_keys": {"layer.input_scale"}}, method="fp8")


def test_layers_of_another_kind_are_refused(checkpoint: Checkpoint) -> None:
    plain = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    odd = AutoModelForCausalLM.from_pretrained(checkpoint("llama"))
    check_plain(odd, plain, method="x")
    layer = odd.model.layers[0]
    kept = layer.mlp.up_proj
    layer.mlp.up_proj = torch.nn.Identity()
    with pytest.raises(UnsupportedCheckpointFormat, match=r"up_proj is Identity"):
        check_plain(odd, plain, method="x")
    layer.mlp.up_proj = kept
    kept.forward = lambda x: x
    with pytest.raises(UnsupportedCheckpointFormat, match="forward of its own"):
        check_plain(odd, plain, method="x")
    del kept.forward
    kept.weight = torch.nn.Parameter(kept.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedCheckpointFormat, match="int8"):
        check_plain(odd, plain, method="x")


def test_identity_covers_quantized_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """One scale of one packed layer changes the namespace of cached context."""
    source = checkpoint("qwen2", **SIZES)
    tensors = load_file(source / "model.safetensors")
    parts, _ = by_hand(tensors["model.layers.0.mlp.up_proj.weight"], "gptq", 4, 32, False)
    manifests = []
    for number in range(2):
        parts["scales"][0, 0] += number
        folder = write(tmp_path / str(number), source, parts, None)
        manifests.append(weights_manifest(folder, Coverage.WHOLE))
    assert manifests[0] != manifests[1]
