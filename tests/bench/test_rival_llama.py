"""llama.cpp's adapter without llama.cpp: its loop on a stand-in decoder, and its conversion."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench.rivals import qwen2_gguf
from bench.rivals.llama_cpp import LlamaCpp

BATCH = 16


class StandIn:
    """Predicts the sum of all that a sequence holds; refuses what llama.cpp would refuse."""

    context = 64

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {}
        self.sizes: list[int] = []
        self._fed = 0
        self._wanted: list[int] = []

    @property
    def room(self) -> int:
        return BATCH - self._fed

    def feed(self, sequence: int, tokens: Sequence[int], *, position: int, wanted: bool) -> None:
        held = self.held.setdefault(sequence, [])
        assert position == len(held), "a gap or an overlap"
        assert len(tokens) <= self.room
        held += tokens
        self._fed += len(tokens)
        self._wanted += [sequence] * wanted

    def decode(self) -> list[int]:
        assert self._fed, "an empty decode"
        self.sizes.append(self._fed)
        tokens = [predict(self.held[sequence]) for sequence in self._wanted]
        self._fed, self._wanted = 0, []
        return tokens

    def forget(self, sequence: int, *, position: int = 0) -> None:
        del self.held.setdefault(sequence, [])[position:]


def predict(tokens: Sequence[int]) -> int:
    return sum((i + 1) * token for i, token in enumerate(tokens)) % 97


def alone(prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(predict(tokens))
    return tokens[len(prompt) :]


def test_everyone_gets_the_output_it_would_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.rivals.llama_cpp._SEQUENCES", 4)
    requests = [
        {"prompt": [n + i for i in range(1 + 7 * n % 40)], "max_tokens": 1 + 5 * n % 11}
        for n in range(13)
    ]
    decoder = StandIn()
    batch = LlamaCpp(decoder).generate(requests)
    assert batch.tokens == [alone(**request) for request in requests]
    assert all(first > 0 for first in batch.firsts)
    assert set(decoder.held) == {0, 1, 2, 3}
    assert not any(decoder.held.values()), "a finished sequence keeps nothing"
    assert max(decoder.sizes) == BATCH, "prompts fill what generating leaves"


def test_a_warm_turn_computes_only_the_prompts_last_token() -> None:
    decoder = StandIn()
    prompt = list(range(40))
    turns = list(LlamaCpp(decoder).turns(prompt, max_tokens=3, count=3))
    assert [len(turn.steps) for turn in turns] == [2, 2, 2]
    cold, warm = [16, 16, 8, 1, 1], [1, 1, 1]
    assert decoder.sizes == cold + warm + warm
    assert not decoder.held[0]


def test_a_request_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens, but a sequence holds 64"):
        LlamaCpp(StandIn()).generate([{"prompt": [1] * 60, "max_tokens": 5}])


def test_every_tensor_of_a_checkpoint_has_a_name_of_its_own(tiny_shape: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny_shape / "model.safetensors", framework="pt") as tensors:
        names = {name: qwen2_gguf.gguf_name(name) for name in tensors.keys()}
    assert names["model.embed_tokens.weight"] == "token_embd.weight"
    assert names["model.layers.1.self_attn.k_proj.bias"] == "blk.1.attn_k.bias"
    assert names["model.layers.0.post_attention_layernorm.weight"] == "blk.0.ffn_norm.weight"
    assert len(set(names.values())) == len(names) == 2 + 2 * 12
    with pytest.raises(KeyError):
        qwen2_gguf.gguf_name("model.layers.0.self_attn.q_norm.weight")


def test_what_the_file_would_not_say_right_is_refused(tiny_shape: Path) -> None:
    config = json.loads((tiny_shape / "config.json").read_text())
    qwen2_gguf.check(config)
    assert qwen2_gguf.rope_parameters(config)["rope_theta"] == 1000000.0
    for wrong in (
        {"model_type": "llama"},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}},
        {"rope_parameters": None, "rope_scaling": {"rope_type": "linear"}},
    ):
        with pytest.raises(ValueError, match="converted"):
            qwen2_gguf.check(config | wrong)


def test_a_file_is_written_once_and_again_for_newer_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(FileNotFoundError, match="safetensors"):
        qwen2_gguf.converted(model)
    weights = model / "model.safetensors"
    weights.touch()
    written = []

    def write(model: Path, file: Path) -> None:
        written.append(model)
        file.touch()

    monkeypatch.setattr(qwen2_gguf, "write", write)
    monkeypatch.setenv("STEPWELL_CONVERTED", str(tmp_path / "made"))
    file = qwen2_gguf.converted(model)
    assert file == qwen2_gguf.converted(model)
    assert len(written) == 1
    os.utime(weights, (file.stat().st_mtime + 9,) * 2)
    assert qwen2_gguf.converted(model) == file
    assert len(written) == 2
    assert list((tmp_path / "made").iterdir()) == [file]
    monkeypatch.delenv("STEPWELL_CONVERTED")
    assert qwen2_gguf.converted(model).parent == tmp_path
