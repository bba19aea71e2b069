"""A GGUF file is served like a folder; its weights are what gguf's own dequantization gives."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from stepwell.base.errors import (  # noqa: E402
    CheckpointNotFound,
    UnsupportedArchitecture,
    UnsupportedCheckpointFormat,
)
from stepwell.model.identity import Coverage, weights_manifest  # noqa: E402
from stepwell.model.load import find_checkpoint, read_hf_config  # noqa: E402
from tests.model.test_checkpoint_formats import SIZES, ours, truth_of, write  # noqa: E402

Checkpoint = Callable[..., Path]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
HEADS, KV_HEADS = 4, 2


def in_pairs(weight: Any, heads: int) -> Any:
    """llama.cpp keeps a rotary pair's rows beside each other, transformers half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1)


def apart(weight: Any, heads: int) -> Any:
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, -1)


def write_gguf(path: Path, source: Path, kind: str) -> dict[str, Any]:
    """Write the file, return what its tensors stand for under transformers' names."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(512)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(SIZES["head_dim"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(512)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    tokens = [chr(0x100 + i) for i in range(511)]
    writer.add_token_list([*tokens, tokens[0] + tokens[1]])
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    form = gguf.GGMLQuantizationType[kind]
    true = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        array, heads = tensor.float().numpy(), 0
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = HEADS if "q_proj" in name else KV_HEADS
            array = in_pairs(array, heads)
        stored = name.removesuffix(".weight")
        if stored.startswith("model.layers."):
            number, _, part = stored.removeprefix("model.layers.").partition(".")
            stored = f"blk.{number}.{NAMES[part]}"
        else:
            stored = NAMES[stored]
        if array.ndim == 2:
            packed = gguf.quants.quantize(array, form)
            writer.add_tensor(f"{stored}.weight", packed, raw_dtype=form)
            array = gguf.quants.dequantize(packed, form)
        else:
            writer.add_tensor(f"{stored}.weight", array)
        true[name] = torch.from_numpy((apart(array, heads) if heads else array).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return true


@pytest.mark.skipif(find_spec("gguf") is None, reason="not installed: gguf")
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_same_tokens_as_its_dequantized_weights(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    source = checkpoint("llama", **SIZES)
    file = tmp_path / "tiny.gguf"
    true = write_gguf(file, source, kind)
    tokens, decisions = ours(file)
    assert tokens == truth_of(write(tmp_path / "plain", source, true, None))
    assert decisions["model.checkpoint_format"].value == "gguf"
    before = [weights_manifest(file, coverage) for coverage in Coverage]
    blocks = bytearray(file.read_bytes())
    blocks[-100] ^= 1
    file.write_bytes(blocks)
    assert all(
        weights_manifest(file, coverage) != old
        for coverage, old in zip(Coverage, before, strict=True)
    )


def test_without_the_package_the_refusal_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepwell.model import checkpoint_formats

    monkeypatch.setattr(checkpoint_formats.check_format, "__kwdefaults__", {"installed": no})
    (tmp_path / "some.gguf").write_bytes(b"GGUF")
    with pytest.raises(UnsupportedCheckpointFormat, match="needs gguf") as caught:
        read_hf_config(tmp_path / "some.gguf")
    assert "stepwell[formats]" in caught.value.hint


def no(name: str) -> None:
    return None


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointNotFound, match=r"nowhere\.gguf"):
        find_checkpoint("nowhere.gguf")


@pytest.mark.skipif(find_spec("gguf") is None, reason="not installed: gguf")
def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises((UnsupportedArchitecture, UnsupportedCheckpointFormat)):
        read_hf_config(tmp_path / "odd.gguf")
