"""Every "auto" becomes a value with a reason, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.config import load_config  # noqa: E402
from stepwell.base.errors import ConfigError, HardwareError, PoolDoesNotFit  # noqa: E402
from stepwell.engine.resolve import resolve, resolve_pool  # noqa: E402
from stepwell.hardware.machine import Machine, cgroup_memory, read_machine  # noqa: E402

FAST = Machine("cpu", 2, frozenset({"avx512_bf16"}), 1 << 34, 1 << 33)
SLOW = Machine("cpu", 2, frozenset({"avx2"}), 1 << 34, 1 << 33)


def model_config(**fields: Any) -> Any:
    config = SimpleNamespace(
        **({"dtype": torch.bfloat16, "max_position_embeddings": 1024} | fields)
    )
    config.get_text_config = lambda: config
    return config


def test_every_choice_is_a_decision() -> None:
    resolved = resolve(load_config(), model_config(), FAST)

    assert {d.name for d in resolved.decisions} == {
        "model.device", "model.dtype", "model.max_model_len",
    }  # fmt: skip
    assert all(d.because for d in resolved.decisions)


def test_bfloat16_needs_a_cpu_that_has_it() -> None:
    assert resolve(load_config(), model_config(), FAST).dtype is torch.bfloat16
    if not torch.cuda.is_available():
        assert resolve(load_config(), model_config(), SLOW).dtype is torch.float32
    wanted = load_config(overrides={"model.dtype": "float16"})
    assert resolve(wanted, model_config(), SLOW).dtype is torch.float16


def test_context_ends_where_the_rotary_embedding_would_change() -> None:
    config = model_config(
        rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 256}
    )
    resolved = resolve(load_config(), config, FAST)

    assert resolved.max_model_len == 256
    with pytest.raises(ConfigError, match="256"):
        resolve(load_config(overrides={"model.max_model_len": 512}), config, FAST)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(HardwareError, match="--device cpu"):
        resolve(load_config(overrides={"model.device": "cuda"}), model_config(), FAST)


def test_pool_is_what_is_useful_or_half_of_what_is_left() -> None:
    config = load_config(overrides={"scheduler.max_sequences": 4})
    useful, why = resolve_pool(
        config, max_model_len=160, block_bytes=1000, memory_available=10_000_000
    )
    assert useful == 40
    assert "max_sequences" in why.because
    half, _ = resolve_pool(config, max_model_len=160, block_bytes=1000, memory_available=40_000)
    assert half == 20


def test_pool_that_does_not_fit_is_refused() -> None:
    config = load_config(overrides={"cache.pool": "1GiB"})
    with pytest.raises(PoolDoesNotFit, match="exceeds"):
        resolve_pool(config, max_model_len=160, block_bytes=1000, memory_available=1 << 20)
    tiny = load_config(overrides={"cache.pool": "1KiB"})
    with pytest.raises(PoolDoesNotFit, match="no room"):
        resolve_pool(tiny, max_model_len=160, block_bytes=1 << 20, memory_available=1 << 30)


def test_a_host_tier_that_does_not_fit_is_refused_before_anything_is_loaded() -> None:
    config = load_config(overrides={"tiers.host": "8GiB"})  # FAST has as much, and not all for it
    with pytest.raises(HardwareError, match=r"7\.2 GiB or less") as refused:
        resolve(config, model_config(), FAST)
    assert refused.value.code == "hardware_error" and refused.value.param == "tiers.host"
    resolve(load_config(overrides={"tiers.host": "7GiB"}), model_config(), FAST)


def test_machine_facts_are_plausible() -> None:
    machine = read_machine()
    assert 1 <= machine.cores <= 4096
    assert 0 < machine.memory_available <= machine.memory_total


def test_a_containers_memory_is_what_it_could_have(tmp_path: Path) -> None:
    assert cgroup_memory(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 400\nactive_file 0\n")
    assert cgroup_memory(tmp_path) == (1000, 300)
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup_memory(tmp_path) is None


def test_a_container_of_version_1_too(tmp_path: Path) -> None:
    (tmp_path / "memory.limit_in_bytes").write_text("1000\n")
    (tmp_path / "memory.usage_in_bytes").write_text("700\n")
    (tmp_path / "memory.stat").write_text("cache 9\ninactive_file 1\ntotal_inactive_file 400\n")
    assert cgroup_memory(tmp_path) == (1000, 300)
