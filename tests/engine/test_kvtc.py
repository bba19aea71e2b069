"""Sessions through the engine with `kvtc` on disk: sinks and window exact, the rest within the
error, and nothing of it found by an engine that did not ask for loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import ConfigError  # noqa: E402
from stepwell.base.hierarchy import TierName  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from tests.engine.test_tiers import run, settle, slow_compute, tokens_of  # noqa: E402

WINDOW, SINKS = 128, 4
Make = Callable[..., LLM]


@pytest.fixture
def make(make_llm: Callable[..., LLM], calibrated: Path, tmp_path: Path) -> Callable[..., LLM]:
    def build(**settings: Any) -> LLM:
        return make_llm(
            **{
                "cache__pool": "1MiB", "tiers__disk": str(tmp_path / "disk"),
                "tiers__disk_capacity": "64MiB", "tiers__disk_codec": "kvtc",
                "tiers__kvtc_calibration": str(calibrated), "tiers__kvtc_ratio": 8.0,
                "tiers__chunk_blocks": 2,
            } | settings
        )  # fmt: skip

    return build


def cached_numbers(llm: LLM, prompt: list[int]) -> torch.Tensor:
    """What the device has of this prompt's whole chunks, [blocks, numbers]."""
    match = llm.built.engine._cache.lookup(prompt, tenant="", keys=[])
    return llm.built.pool.storage[list(match.blocks)].clone()


def kept_exact(llm: LLM) -> int:
    """Chunks that the codec would not take."""
    tiers = llm.built.engine.tiers
    assert tiers is not None
    return tiers.hierarchy.stats().tiers[TierName.DISK].kept_exact


def restored(llm: LLM, prompt: list[int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompt again, after the device has forgotten it."""
    engine = llm.built.engine
    assert engine.tiers is not None
    settle(llm)
    engine.clear_cache()
    slow_compute(llm, monkeypatch, per_token=0.1)
    before = engine.tiers.restored_tokens
    (output,) = run(llm, [prompt])
    settle(llm)
    assert engine.tiers.restored_tokens - before == len(prompt) // 32 * 32
    return output


def test_sinks_and_window_come_back_exactly_and_the_rest_nearly(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make()
    prompt = tokens_of(400, 1)
    run(llm, [prompt])
    before = cached_numbers(llm, prompt)
    restored(llm, prompt, monkeypatch)
    after = cached_numbers(llm, prompt)
    same = by_token(llm, before) == by_token(llm, after)
    exact = same.all(1).tolist()
    stored = len(exact) // 32 * 32
    edge = stored - WINDOW
    assert all(exact[:SINKS]) and all(exact[edge:stored])
    assert not any(exact[SINKS:edge])
    error = (before - after).float().square().mean() / before.float().square().mean()
    assert 0 < float(error) < 0.1
    assert kept_exact(llm) == 0
    llm.close()


def test_bytes_on_disk_shrink_when_a_session_grows(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first turn's window is coded once the second turn has moved it on."""
    llm = make()
    prompt = tokens_of(256, 2)
    (reply,) = run(llm, [prompt])
    settle(llm)
    tiers = llm.built.engine.tiers
    assert tiers is not None
    first = tiers.hierarchy.stats().tiers[TierName.DISK]
    run(llm, [prompt + reply + tokens_of(128, 3)])
    settle(llm)
    tiers.hierarchy.check()
    second = tiers.hierarchy.stats().tiers[TierName.DISK]
    assert second.chunks == first.chunks + 4
    coded = 32 * llm.built.pool.block_bytes // 16 // 4  # a chunk at 4x, generously
    assert second.used - first.used <= 4 * coded
    llm.close()


def test_what_would_lose_too_much_is_kept_exact_and_counted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(tiers__kvtc_limit=1.0)  # no more than expected: about half of all chunks exceed it
    prompt = tokens_of(400, 6)
    run(llm, [prompt])
    before = cached_numbers(llm, prompt)
    restored(llm, prompt, monkeypatch)
    assert kept_exact(llm) > 0
    after = cached_numbers(llm, prompt)
    kept = (before == after).all(1)
    assert int(kept.sum()) >= 2 * kept_exact(llm)
    llm.close()


def test_an_exact_engine_finds_nothing_that_was_coded(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, prompt = make(), tokens_of(400, 4)
    run(llm, [prompt])
    settle(llm)
    llm.close()
    for settings in ({"tiers__disk_codec": "lossless"}, {"tiers__kvtc_ratio": 4.0}):
        other = make(**settings)
        slow_compute(other, monkeypatch)
        run(other, [prompt])
        assert other.built.engine.tiers is not None
        assert other.built.engine.tiers.restored_tokens == 0
        settle(other)
        other.close()
    again = make()
    slow_compute(again, monkeypatch)
    run(again, [prompt])
    assert again.built.engine.tiers is not None
    assert again.built.engine.tiers.restored_tokens > 0
    again.close()


@pytest.mark.parametrize("codec", ["fp8", "int8", "int4"])
def test_the_cheap_lossy_codecs_serve_too(
    make: Make, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, prompt = make(tiers__disk_codec=codec), tokens_of(400, 5)
    run(llm, [prompt])
    before = cached_numbers(llm, prompt)
    restored(llm, prompt, monkeypatch)
    after = cached_numbers(llm, prompt)
    exact = (by_token(llm, before) == by_token(llm, after)).all(1)
    stored = len(exact) // 32 * 32
    assert bool(exact[stored - WINDOW : stored].all()) and not bool(exact[:stored].all())
    error = (before - after).float().square().mean() / before.float().square().mean()
    assert float(error) < 0.02
    llm.close()


def test_without_a_calibration_the_start_says_what_to_do(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no calibration") as caught:
        make(tiers__kvtc_calibration=str(tmp_path / "none.kvtc"))
    assert "stepwell calibrate" in (caught.value.hint or "")
    broken = tmp_path / "broken.kvtc"
    broken.write_bytes(b"x" * 500)
    with pytest.raises(ConfigError, match="cannot be used"):
        make(tiers__kvtc_calibration=str(broken))


def by_token(llm: LLM, numbers: torch.Tensor) -> torch.Tensor:
    """[blocks, numbers] -> [tokens, features]."""
    found = []
    size = llm.built.pool.block_size
    at = 0
    for layer in llm.built.pool.layers.values():
        for part in (layer.key, layer.value):
            heads, _, dim = part.shape[1:]
            block = numbers[:, at : at + heads * size * dim].view(-1, heads, size, dim)
            found.append(block.transpose(1, 2).reshape(-1, heads * dim))
            at += heads * size * dim
    return torch.cat(found, dim=1)
