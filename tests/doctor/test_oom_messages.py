"""Messages from public issues (tests/doctor/oom, each with its source), explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.base.units import parse_bytes
from stepwell.doctor.oom.explain import explain_log
from stepwell.doctor.oom.words import Explanation, Phase

FOLDER = Path(__file__).parent / "oom"
GIB = 1 << 30

# name: (kind, phase, words of the explanation, words of the first step)
EXPECTED = {
    "cublas": ("cublas_alloc", Phase.UNKNOWN, "outside PyTorch's allocator", "smaller batch"),
    "exit_137": ("exit_137", Phase.UNKNOWN, "text does not say which", "dmesg"),
    "exit_137_kubernetes": ("exit_137", Phase.UNKNOWN, "128 + 9", "kubectl describe"),
    "jax": ("jax_exhausted", Phase.UNKNOWN, "three quarters", "MEM_FRACTION"),
    "kernel_cgroup": ("kernel_cgroup", Phase.UNKNOWN, "is not the one that took", "limit"),
    "kernel_oom": ("kernel_oom", Phase.UNKNOWN, "the whole machine", "host memory"),
    "llamacpp_compute": ("ggml_compute", Phase.KV_CACHE, "scratch memory", "-ub"),
    "llamacpp_kv_host": ("ggml_kv", Phase.KV_CACHE, "whole context", "-c"),
    "llamacpp_model": ("ggml_model", Phase.LOADING, "weights", "-ngl"),
    "lmcache": ("lmcache_full", Phase.SERVING, "Serving goes on", "max_local_cpu_size"),
    "numpy": ("numpy_memory", Phase.UNKNOWN, "(2048, 2048, 2048, 4)", "broadcast"),
    "ollama_runner": ("ollama_runner", Phase.LOADING, "estimate", "num_ctx"),
    "ollama_system": ("ollama_system", Phase.LOADING, "Nothing was loaded", "smaller"),
    "sglang_capture": ("sglang_capture", Phase.GRAPHS, "after the pool", "Lower --mem-fraction"),
    "sglang_decode_full": ("sglang_pool_full", Phase.SERVING, "page-size", "--page-size 1"),
    "sglang_init": ("sglang_init", Phase.KV_CACHE, "keeps free", "Raise --mem-fraction-static"),
    "sglang_leak": ("sglang_leak", Phase.SERVING, "59 slots are lost", "Update"),
    "sglang_leak_old": ("sglang_leak", Phase.SERVING, "4,224 slots are too many", "Update"),
    "sglang_prefill_full": ("sglang_pool_full", Phase.SERVING, "no room", "--chunked-prefill"),
    "sglang_retract": ("sglang_retract", Phase.SERVING, "nothing failed", "conservativeness"),
    "sglang_slots": ("sglang_slots", Phase.SERVING, "slots", "Raise --max-running-requests"),
    "stepwell_budget": ("stepwell_budget", Phase.LOADING, "two layers", "5.0 MiB or more"),
    "stepwell_host": ("stepwell_host", Phase.KV_CACHE, "one allocation", "19.1 GiB or less"),
    "stepwell_pool": ("stepwell_pool", Phase.KV_CACHE, "counted first", "19.3 GiB or less"),
    "tgi_total": ("tgi_warmup", Phase.PROFILING, "largest prefill", "another error"),
    "tgi_warmup": ("tgi_warmup", Phase.PROFILING, "largest prefill", "below 4096"),
    "torch_attention_scores": ("torch_too_large", Phase.UNKNOWN, "square", "fused attention"),
    "torch_container_self": ("torch_fragmented", Phase.UNKNOWN, "cache", "expandable_segments"),
    "torch_cpu": ("torch_cpu", Phase.UNKNOWN, "overcommit", "tensor"),
    "torch_cpu_windows": ("torch_cpu", Phase.UNKNOWN, "overcommit", "tensor"),
    "torch_fragmented": ("torch_fragmented", Phase.UNKNOWN, "in pieces", "expandable_segments"),
    "torch_free_refused": ("torch_free_but_refused", Phase.UNKNOWN, "does not say why", "limit"),
    "torch_full": ("torch_full", Phase.UNKNOWN, "is in use", "smaller batch"),
    "torch_hip": ("torch_free_but_refused", Phase.UNKNOWN, "does not say why", "limit"),
    "torch_hip_too_large": ("torch_too_large", Phase.UNKNOWN, "however empty", "tensor"),
    "torch_mps": ("torch_mps", Phase.UNKNOWN, "share of unified memory", "smaller batch"),
    "torch_old_cached": ("torch_outside", Phase.UNKNOWN, "holds only", "nvidia-smi"),
    "torch_old_fragmented": ("torch_fragmented", Phase.UNKNOWN, "piece", "expandable_segments"),
    "torch_old_full": ("torch_full", Phase.UNKNOWN, "is in use", "smaller batch"),
    "torch_npu": ("torch_fragmented", Phase.UNKNOWN, "in pieces", "expandable_segments"),
    "torch_npu_outside": ("torch_outside", Phase.UNKNOWN, "holds only", "nvidia-smi"),
    "torch_xpu": ("torch_too_large", Phase.UNKNOWN, "however empty", "tensor"),
    "vllm_serving": ("torch_full", Phase.SERVING, "is in use", "from 0.9 to 0.8"),
    "vllm_serving_fragmented": ("torch_fragmented", Phase.UNKNOWN, "in pieces", "expandable"),
    "torch_others": ("torch_others", Phase.LOADING, "6 of them hold about", "Stop the other"),
    "torch_outside": ("torch_outside", Phase.UNKNOWN, "outside the allocator", "nvidia-smi"),
    "torch_too_large": ("torch_too_large", Phase.UNKNOWN, "however empty", "tensor"),
    "trtllm_serving": ("trtllm_alloc", Phase.SERVING, "0.9", "free_gpu_memory_fraction"),
    "trtllm_start": ("trtllm_alloc", Phase.KV_CACHE, "largest batch", "free_gpu_memory"),
    "vllm_graphs": ("cuda_bare", Phase.GRAPHS, "graph", "Lower --gpu-memory-utilization"),
    "vllm_length": ("vllm_length", Phase.KV_CACHE, "refuses to start", "--max-model-len 5632"),
    "vllm_length_tokens": ("vllm_length", Phase.KV_CACHE, "23,648", "--max-model-len 23648"),
    "vllm_length_wrapped": ("vllm_length", Phase.KV_CACHE, "4.2 GiB", "--max-model-len 99765"),
    "vllm_nccl": ("nccl_alloc", Phase.UNKNOWN, "what the device has left", "when it happened"),
    "vllm_no_blocks": ("vllm_no_blocks", Phase.KV_CACHE, "helps only where", "stepwell plan"),
    "vllm_no_blocks_cpu": ("vllm_no_blocks", Phase.KV_CACHE, "helps only where", "stepwell plan"),
    "vllm_profiling": ("vllm_profiling", Phase.PROFILING, "gave memory back", "Start it again"),
    "vllm_sampler_warmup": ("torch_full", Phase.WARMUP, "is in use", "--max-num-seqs"),
    "vllm_start_free": ("vllm_start_free", Phase.PROFILING, "allocated nothing", "Stop"),
    "vllm_warmup_alone": ("vllm_warmup", Phase.WARMUP, "vocabulary", "from 256"),
}


def fixture(name: str) -> list[str]:
    """Lines of a message, without the line that says where it is from."""
    source, *lines = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert source.startswith("# source: ")
    return lines


def explained(name: str) -> Explanation:
    found = explain_log(fixture(name)).explanation
    assert found is not None
    return found


def size_of(found: Explanation, start: str) -> int | None:
    (size,) = [holder.size for holder in found.holders if holder.name.startswith(start)]
    return size


def test_every_message_has_an_expectation() -> None:
    assert sorted(EXPECTED) == sorted(path.stem for path in FOLDER.glob("*.txt"))
    assert len(EXPECTED) >= 20


@pytest.mark.parametrize("name", EXPECTED)
def test_message_is_explained(name: str) -> None:
    kind, phase, why, step = EXPECTED[name]
    found = explained(name)
    assert found.kind == kind
    assert found.phase is phase
    assert why in f"{found.why} {found.fragmentation} {' '.join(s.change for s in found.steps)}"
    assert step in found.steps[0].change
    assert found.holders and found.text
    assert all(s.change and s.effect for s in found.steps)
    finding = found.finding()
    assert finding.code == kind and finding.diagnosis and finding.action


def test_who_holds_what_adds_up_to_the_device() -> None:
    for name in EXPECTED:
        found = explained(name)
        if found.capacity is None or not found.kind.startswith("torch_"):
            continue
        total = sum(holder.size or 0 for holder in found.holders)
        if found.kind != "torch_mps":
            assert total == pytest.approx(found.capacity, rel=0.02), name


def test_others_are_told_from_this_process() -> None:
    found = explained("torch_others")
    assert size_of(found, "other processes") == pytest.approx(20.93 * GIB, rel=0.01)
    assert size_of(found, "this process outside") == pytest.approx(0.24 * GIB, rel=0.05)


def test_a_process_seen_from_a_container_is_this_one() -> None:
    found = explained("torch_container_self")
    assert size_of(found, "other processes") == pytest.approx(0, abs=0.02 * GIB)


def test_graph_pools_are_split_off() -> None:
    found = explained("vllm_sampler_warmup")
    assert size_of(found, "private pools") == parse_bytes("128MiB")


def test_length_needs_and_fits() -> None:
    evidence = explained("vllm_length").evidence
    assert evidence["needed_bytes"] == 16 * GIB
    assert evidence["longest_that_fits"] == 5632
    assert evidence["bytes_per_token"] == pytest.approx(131072)


def test_share_that_would_start_is_computed() -> None:
    found = explained("vllm_start_free")
    assert "0.89" in found.steps[1].change
    assert found.capacity == pytest.approx(22.05 * GIB, rel=1e-6)


def test_a_whole_log_splits_weights_and_pool_and_activations() -> None:
    found = explained("vllm_serving")
    sizes = {name: size_of(found, name) or 0 for name in ("weights", "KV pool", "PyTorch's other")}
    assert sizes["weights"] == pytest.approx(7.51 * GIB, rel=0.001)
    assert sizes["KV pool"] == pytest.approx(3.76 * GIB, rel=0.001)
    assert sizes["PyTorch's other"] == pytest.approx((13.81 - 0.104 - 11.27) * GIB, rel=0.01)


def test_init_and_run_need_opposite_changes() -> None:
    start, run = explained("sglang_init"), explained("sglang_capture")
    assert start.steps[0].change.startswith("Raise --mem-fraction-static, above 0.84")
    assert run.steps[0].change.startswith("Lower --mem-fraction-static")


def test_killed_process_is_measured() -> None:
    found = explained("kernel_oom")
    assert size_of(found, "perl: own") == 60356340 << 10


def test_what_the_text_does_not_say_is_unknown() -> None:
    assert any(holder.size is None for holder in explained("torch_cpu").holders)
    assert any(holder.size is None for holder in explained("vllm_graphs").holders)
    assert explained("vllm_graphs").requested is None
