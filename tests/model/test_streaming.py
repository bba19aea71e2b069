"""Streamed models: the tokens of the whole model, and what happens when disk or file fail."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import (  # noqa: E402
    ConfigError,
    StepFailed,
    UnsupportedArchitecture,
    WeightsBudgetTooSmall,
    WeightStoreError,
)
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.base.units import parse_bytes  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.hardware.machine import read_machine  # noqa: E402
from stepwell.kernels import registry  # noqa: E402
from stepwell.model.streaming.files import ALIGNMENT, BlockFile  # noqa: E402
from stepwell.model.streaming.store import read_index  # noqa: E402

LARGER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6}
FUSED = LARGER | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
SAMPLING = SamplingParams(max_tokens=10, temperature=0.0, ignore_eos=True)
PROMPTS = [[5, 6, 7, 8] * 5, [300, 4, 300], [9, 10, 11] * 20]
BUDGET = "3MiB"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores of a test are its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def start():
    """start(folder, budget) -> an engine that is closed at the end."""
    started: list[LLM] = []

    def make(folder: Path, budget: str, **settings: Any) -> LLM:
        settings = {"cache__pool": "4MiB", "model__weights_budget": budget} | settings
        started.append(LLM(str(folder), **settings))
        return started[-1]

    yield make
    for llm in started:
        llm.close()


def tokens(llm: LLM) -> list[list[int]]:
    return [choice.token_ids for choice in llm.generate(PROMPTS, SAMPLING)]


def decision(llm: LLM, name: str) -> Any:
    return next((d for d in llm.built.decisions if d.name == name), None)


def store_of(cache_home: Path) -> Path:
    (path,) = (cache_home / "stepwell" / "streamed").glob("*.weights")
    return path


def change_tensor(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Save a checkpoint's tensor anew."""
    from safetensors.torch import load_file, save_file

    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def spread_of(weight: Any) -> Any:
    """Powers of two over more than 16 exponents."""
    return 2.0 ** -torch.randint(0, 40, weight.shape, generator=torch.Generator().manual_seed(1))


def flip(path: Path, place: int) -> None:
    """Turn a bit over."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 0x40]))


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "vocab_size": 2000}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("gemma2", {"tie_word_embeddings": True}),
        ("gemma3_text", {"layer_types": None, "tie_word_embeddings": True}),
        ("mistral", {}),
        ("phi3", {}),
        ("gpt_oss", {"layer_types": None, "intermediate_size": 96}),
    ],
)
def test_the_tokens_of_the_whole_model(
    checkpoint: Callable[..., Path], start, model_type: str, changes: dict[str, Any]
) -> None:
    folder = checkpoint(model_type, **(LARGER | changes))
    whole, streamed = start(folder, "0"), start(folder, BUDGET)
    assert whole.built.loaded.streamer is None
    assert tokens(streamed) == tokens(whole)
    assert streamed.built.info.weight_bytes <= 3 << 20
    assert streamed.built.info.parameters == whole.built.info.parameters
    stats = streamed.stats.streaming
    assert stats is not None
    assert stats.passes == streamed.stats.steps
    assert stats.bytes_per_pass > 0


@pytest.mark.parametrize(
    ("budgets", "coded"),
    [(("2MiB", "2MiB", "3MiB", "4MiB"), True), (("5500KiB", "5500KiB"), False)],
)
@pytest.mark.parametrize("model_type", ["llama", "phi3"])
def test_bfloat16(
    checkpoint: Callable[..., Path], start, model_type: str, budgets: tuple[str, ...], coded: bool
) -> None:
    """Packed when the store is built, in 12 bits where most of it streams; the second engine of a
    budget only opens it. Layers are fused, or run one by one."""
    folder = checkpoint(model_type, **(FUSED | {"num_hidden_layers": 12}))
    whole = start(folder, "0", model__dtype="bfloat16")
    expected = tokens(whole)
    for budget in budgets:
        streamed = start(folder, budget, model__dtype="bfloat16")
        assert decision(streamed, "kernels.linear").value == decision(whole, "kernels.linear").value
        assert (decision(streamed, "weights.coding") is not None) == coded
        assert streamed.built.info.weight_bytes <= parse_bytes(budget)
        assert tokens(streamed) == expected
        assert streamed.stats.streaming.bytes_per_pass > 0


def test_reference_kernels(
    checkpoint: Callable[..., Path], start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain layers in 12 bits, unpacked by the plain version."""
    folder = checkpoint("llama", **(FUSED | {"num_hidden_layers": 12}))
    monkeypatch.setenv(registry.VARIABLE, registry.REFERENCE)
    registry.forget()
    try:
        streamed = start(folder, "2MiB", model__dtype="bfloat16")
        assert decision(streamed, "weights.coding") is not None
        assert decision(streamed, "kernels.linear").value == "plain"
        assert tokens(streamed) == tokens(start(folder, "0", model__dtype="bfloat16"))
    finally:
        monkeypatch.undo()
        registry.forget()


def test_weights_that_do_not_pack_stay_as_they_are(checkpoint: Callable[..., Path], start) -> None:
    """Numbers of every exponent in one matrix: in its place, among others that are packed."""
    folder = checkpoint("llama", **(FUSED | {"num_hidden_layers": 12}))
    change_tensor(folder, "model.layers.3.mlp.up_proj.weight", lambda w: w * spread_of(w))
    whole = start(folder, "0", model__dtype="bfloat16")
    streamed = start(folder, "2MiB", model__dtype="bfloat16")
    head = [p for p in streamed.built.loaded.model.lm_head.slabs]
    assert int(decision(streamed, "weights.coding").because.split()[0]) == 12 * 7 + len(head) - 1
    assert tokens(streamed) == tokens(whole)


@pytest.mark.parametrize(
    ("weights", "budget"), [("checkpoint", "2MiB"), ("int8", "1500KiB"), ("int4", "1100KiB")]
)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_fused_layers(
    checkpoint: Callable[..., Path], start, model_type: str, weights: str, budget: str
) -> None:
    """Their programs hold addresses, which move; both sides compute with the same kernels."""
    folder = checkpoint(model_type, **(FUSED | {"num_hidden_layers": 12}))
    settings = {"model__dtype": "bfloat16", "model__weights": weights}
    whole = start(folder, "0", **settings)
    streamed = start(folder, budget, **settings)
    assert decision(whole, "model.layers").value == "fused"
    assert decision(streamed, "model.layers").value == "fused"
    assert tokens(streamed) == tokens(whole)
    assert streamed.stats.streaming.bytes_per_pass > 0


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_low_bit_weights(checkpoint: Callable[..., Path], start, weights: str) -> None:
    """Of layers that nobody fuses: both compute with the same kernels."""
    folder = checkpoint("olmo2", **LARGER)
    low = {"model__dtype": "bfloat16", "model__weights": weights}
    whole = start(folder, "0", **low)
    for _ in range(2):
        streamed = start(folder, "1600KiB", **low)
        assert streamed.stats.streaming is not None
        assert tokens(streamed) == tokens(whole)


def test_lossless_weights_are_streamed_as_bfloat16(checkpoint: Callable[..., Path], start) -> None:
    folder = checkpoint("llama", **(FUSED | {"num_hidden_layers": 12}))
    settings = {"model__dtype": "bfloat16", "model__weights": "lossless"}
    streamed = start(folder, "2MiB", **settings)
    assert decision(streamed, "weights.lossless").value == "bfloat16"
    assert tokens(streamed) == tokens(start(folder, "2MiB", model__dtype="bfloat16"))


@pytest.mark.parametrize("budget", ["2500KiB", "3MiB", "5MiB"])
def test_any_budget(checkpoint: Callable[..., Path], start, budget: str) -> None:
    folder = checkpoint("llama", **LARGER)
    assert tokens(start(folder, budget)) == tokens(start(folder, "0"))


def test_the_store_is_found_again(checkpoint: Callable[..., Path], start) -> None:
    folder = checkpoint("llama", **LARGER)
    first, second = start(folder, BUDGET), start(folder, BUDGET)
    assert decision(first, "weights.store").value == "built"
    assert decision(second, "weights.store") is None
    assert tokens(first) == tokens(second)


def test_what_fits_is_loaded_whole_and_said(
    checkpoint: Callable[..., Path], start, cache_home: Path
) -> None:
    llm = start(checkpoint("llama", **LARGER), "1GiB")
    assert llm.built.loaded.streamer is None
    assert decision(llm, "weights.streaming").value == "off"
    assert not (cache_home / "stepwell" / "streamed").exists()


def test_low_bits_may_fit_where_the_checkpoint_does_not(
    checkpoint: Callable[..., Path], start
) -> None:
    low = {"model__dtype": "bfloat16", "model__weights": "int4"}
    llm = start(checkpoint("olmo2", **LARGER), "2500KiB", **low)
    assert decision(llm, "weights.streaming").value == "off"
    assert llm.stats.streaming.passes == 0
    assert tokens(llm) == tokens(start(checkpoint("olmo2", **LARGER), "0", **low))


def test_too_small_a_budget_names_the_least(checkpoint: Callable[..., Path], start) -> None:
    folder = checkpoint("llama", **LARGER)
    with pytest.raises(WeightsBudgetTooSmall) as caught:
        start(folder, "100KiB")
    least = caught.value.hint.split()[3]
    assert tokens(start(folder, least)) == tokens(start(folder, "0"))
    with pytest.raises(WeightsBudgetTooSmall):
        start(folder, str((int(least.removesuffix("MiB")) - 1) << 20))


def test_refusals(checkpoint: Callable[..., Path], start) -> None:
    folder = checkpoint("llama", **LARGER)
    with pytest.raises(ConfigError, match="random weights"):
        start(folder, BUDGET, model__random_weights=True)
    with pytest.raises(ConfigError, match="size"):
        start(folder, "-3")
    with pytest.raises(UnsupportedArchitecture, match="renamed or merged"):
        start(checkpoint("mixtral", **LARGER), BUDGET)


@pytest.mark.parametrize("place", ["header", "middle", "embedding", "index", "truncated", "empty"])
def test_a_damaged_store_is_built_again(
    checkpoint: Callable[..., Path], start, cache_home: Path, place: str
) -> None:
    folder = checkpoint("llama", **LARGER)
    first = start(folder, BUDGET)
    expected = tokens(first)
    path = store_of(cache_home)
    size = path.stat().st_size
    index = read_index(BlockFile(path), identity=path.stem)
    at = {"header": 3, "middle": size // 2, "index": size - ALIGNMENT}
    at["embedding"] = index.embedding.offset + index.embedding.size // 3
    if place in ("truncated", "empty"):
        os.truncate(path, size // 2 if place == "truncated" else 0)
    else:
        flip(path, at[place])
    again = start(folder, BUDGET)
    assert "damaged" in decision(again, "weights.store").because
    assert tokens(again) == expected


def test_damage_after_opening_fails_a_step(
    checkpoint: Callable[..., Path], start, cache_home: Path
) -> None:
    """Units are checked in turn, one a pass: found within as many passes as there are units."""
    llm = start(checkpoint("llama", **LARGER), BUDGET)
    expected, streamer = tokens(llm), llm.built.loaded.streamer
    assert streamer is not None
    flip(store_of(cache_home), store_of(cache_home).stat().st_size // 2)
    failed = [choice for _ in range(3) for choice in llm.generate(PROMPTS, SAMPLING)][-1]
    assert isinstance(failed.error, StepFailed)
    assert "does not have its checksum" in str(failed.error)
    flip(store_of(cache_home), store_of(cache_home).stat().st_size // 2)
    assert tokens(llm) == expected


def test_no_space(checkpoint: Callable[..., Path], start, monkeypatch, cache_home: Path) -> None:
    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = checkpoint("llama", **LARGER)
    monkeypatch.setattr("stepwell.model.streaming.store.os.pwrite", full)
    with pytest.raises(WeightStoreError, match="No space left"):
        start(folder, BUDGET)
    monkeypatch.undo()
    assert not list((cache_home / "stepwell" / "streamed").glob("*weights*"))


@pytest.mark.parametrize(("dtype", "budget"), [("float32", BUDGET), ("bfloat16", "2MiB")])
def test_a_read_error_fails_its_requests_and_nothing_after(
    checkpoint: Callable[..., Path], start, monkeypatch: pytest.MonkeyPatch, dtype: str, budget: str
) -> None:
    """In layers that run one by one, and in fused ones."""
    folder = checkpoint("llama", **FUSED)
    llm = start(folder, budget, model__dtype=dtype)
    expected = tokens(llm)
    read = BlockFile.read

    def fail(self: BlockFile, target: memoryview, offset: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(BlockFile, "read", fail)
    failed = llm.generate(PROMPTS, SAMPLING)
    assert all(isinstance(choice.error, StepFailed) for choice in failed)
    assert "could not be read" in str(failed[0].error)
    monkeypatch.setattr(BlockFile, "read", read)
    assert tokens(llm) == expected


@pytest.mark.parametrize("units", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_while_building(
    checkpoint: Callable[..., Path], start, cache_home: Path, units: int
) -> None:
    """kill -9 in the middle of the build: no half store is used, none is left over."""
    folder = checkpoint("llama", **LARGER)
    streamed = cache_home / "stepwell" / "streamed"
    _kill_after(folder, units, streamed)
    assert not list(streamed.glob("*.weights"))
    assert list(streamed.glob("*.partial-*"))
    assert tokens(start(folder, BUDGET)) == tokens(start(folder, "0"))
    assert not list(streamed.glob("*.partial-*"))


def _kill_after(folder: Path, units: int, streamed: Path) -> None:
    """Build in a child that stands still after so many units, and kill it there."""
    code = (
        "import sys, time\n"
        "from stepwell.model.streaming import store\n"
        "from stepwell.engine.llm import LLM\n"
        "add = store.StoreWriter.add_unit\n"
        "def slow(self, tensors, linears):\n"
        "    add(self, tensors, linears)\n"
        f"    if len(self._units) == {units}:\n"
        "        print('here', flush=True); time.sleep(600)\n"
        "store.StoreWriter.add_unit = slow\n"
        f"LLM({str(folder)!r}, model__weights_budget={BUDGET!r})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"here"
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()


def test_auto_splits_what_is_free(
    checkpoint: Callable[..., Path], start, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint("llama", **LARGER)
    machine = read_machine()
    assert decision(start(folder, "auto"), "weights.budget").value == "off"
    little = dataclasses.replace(machine, memory_available=6 << 20)
    monkeypatch.setattr("stepwell.engine.build_streaming.read_machine", lambda: little)
    limits = {"scheduler__max_step_tokens": 64, "scheduler__max_sequences": 4}
    streamed = start(folder, "auto", cache__pool="auto", **limits)
    split = decision(streamed, "memory.split")
    assert split.predicted > 0
    assert streamed.built.info.weight_bytes + streamed.stats.memory.pool < 6 << 20
    assert tokens(streamed) == tokens(start(folder, "0"))
    monkeypatch.setattr(
        "stepwell.engine.build_streaming.read_machine",
        lambda: dataclasses.replace(machine, memory_available=1 << 20),
    )
    with pytest.raises(WeightsBudgetTooSmall):
        start(folder, "auto")


@pytest.mark.parametrize(("arithmetic", "width"), [(1e15, 4096), (1e6, 256)])
def test_steps_are_as_wide_as_a_read_hides(
    checkpoint: Callable[..., Path],
    start,
    monkeypatch: pytest.MonkeyPatch,
    arithmetic: float,
    width: int,
) -> None:
    monkeypatch.setattr(
        "stepwell.engine.build_streaming.measure_arithmetic", lambda dtype: arithmetic
    )
    folder = checkpoint("llama", **LARGER)
    llm = start(folder, BUDGET)
    found = decision(llm, "scheduler.max_step_tokens")
    assert found.value == width
    assert tokens(llm) == tokens(start(folder, "0"))
