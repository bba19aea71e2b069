"""What cannot be served is refused by name; what is loaded is what the checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import (  # noqa: E402
    CheckpointNotFound,
    UnsafeCheckpoint,
    UnsupportedArchitecture,
)
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.model.identity import make_namespace  # noqa: E402
from stepwell.model.load import find_checkpoint, read_hf_config  # noqa: E402
from stepwell.model.pool import KVPool  # noqa: E402

Checkpoint = Callable[..., Path]


def write_config(folder: Path, **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere", "just-a-word"])
def test_missing_checkpoint(name: str) -> None:
    with pytest.raises(CheckpointNotFound, match="folder"):
        find_checkpoint(name)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"config\.json"):
        find_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": "vit"}, "not a causal language model"),
        ({"model_type": "no_such_model"}, "no_such_model"),
        (
            {"model_type": "llama4_text", "num_hidden_layers": 2,
             "layer_types": ["chunked_attention", "full_attention"]},
            "chunked_attention",
        ),
    ],
)  # fmt: skip
def test_unsupported_architecture_names_what_is_tested(
    tmp_path: Path, fields: dict, says: str
) -> None:
    with pytest.raises(UnsupportedArchitecture, match=says) as caught:
        read_hf_config(write_config(tmp_path, **fields))
    assert "llama" in caught.value.hint


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type="evil", auto_map={"AutoConfig": "evil.Config"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsafeCheckpoint, match="never run"):
        read_hf_config(folder)


def test_pickled_weights_are_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((checkpoint("llama") / "config.json").read_text())
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpoint, match="safetensors"):
        LLM(str(folder))


def test_untested_architecture_is_compared_with_transformers(checkpoint: Checkpoint) -> None:
    llm = LLM(str(checkpoint("olmo", num_key_value_heads=4)), cache__pool="2MiB")
    (decision,) = [d for d in llm.built.decisions if d.name == "model.verified"]

    assert decision.value == "at load"


def test_architecture_with_other_attention_is_refused(checkpoint: Checkpoint) -> None:
    """bert attends to later tokens too; only the comparison can tell."""
    with pytest.raises(UnsupportedArchitecture, match="differs from transformers"):
        LLM(str(checkpoint("bert", is_decoder=False)), cache__pool="2MiB")


def test_namespace_changes_with_whatever_the_bytes_depend_on(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    folder = checkpoint("llama")
    settings = {"folder": folder, "model_config": {"a": 1}, "dtype": "float32", "block_size": 16}
    base = make_namespace(**settings)
    other = tmp_path / "model.safetensors"
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)

    assert make_namespace(**settings) == base
    for change in (
        {"folder": tmp_path}, {"model_config": {"a": 2}}, {"dtype": "bfloat16"},
        {"block_size": 32}, {"instance": "x"},
    ):  # fmt: skip
        assert make_namespace(**(settings | change)) != base, change


def test_block_copy_reads_back_over_all_layers(checkpoint: Checkpoint) -> None:
    llm = LLM(str(checkpoint("llama")), cache__pool="64KiB")
    pool: KVPool = llm.built.pool
    pool.storage.normal_()
    before = pool.storage.clone()
    pool.copy_block(source=1, target=2)

    assert torch.equal(pool.storage[2], before[1])
    kept = [b for b in range(pool.num_blocks) if b != 2]
    assert torch.equal(pool.storage[kept], before[kept])
    for layer in pool.layers.values():
        assert torch.equal(layer.key[2], layer.key[1])
        assert torch.equal(layer.value[2], layer.value[1])


def test_cached_prefix_survives_nothing_but_equal_weights(checkpoint: Checkpoint) -> None:
    """Two engines over different weights have different keys for the same tokens."""
    greedy = SamplingParams(max_tokens=1, temperature=0.0)
    keys = []
    for name in ("llama", "qwen2"):
        llm = LLM(str(checkpoint(name)), cache__pool="1MiB")
        llm.generate([list(range(3, 40))], greedy)
        keys.append(set(llm.built.engine._cache.pool._index))
    assert keys[0] and not keys[0] & keys[1]
