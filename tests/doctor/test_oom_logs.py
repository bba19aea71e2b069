"""Whole logs: finding the message, facts on the way, and what is no message."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.doctor.oom.explain import explain_log
from stepwell.doctor.oom.words import Phase
from tests.doctor.test_oom_messages import EXPECTED, explained, fixture

HEALTHY_VLLM = """\
INFO 12-20 20:25:46 worker.py:241] Memory profiling takes 19.77 seconds
INFO 12-20 20:25:46 worker.py:241] the current vLLM instance can use total_gpu_memory (15.77GiB) x gpu_memory_utilization (0.90) = 14.20GiB
INFO 12-20 20:25:46 worker.py:241] model weights take 7.51GiB; non_torch_memory takes 0.39GiB; PyTorch activation peak memory takes 2.53GiB; the rest of the memory reserved for KV Cache is 3.76GiB.
INFO 12-20 20:25:46 distributed_gpu_executor.py:57] # GPU blocks: 3852, # CPU blocks: 4096
INFO 12-20 20:25:49 model_runner.py:1413] Capturing cudagraphs for decoding. If out-of-memory error occurs during cudagraph capture, consider decreasing `gpu_memory_utilization` or switching to eager mode.
INFO 12-20 20:26:08 model_runner.py:1456] CUDA graphs can take additional 1~3 GiB memory per GPU. If you are running out of memory, consider decreasing `gpu_memory_utilization` or enforcing eager mode.
INFO:     127.0.0.1:1137 - "POST /v1/chat/completions HTTP/1.1" 200 OK
INFO 12-20 20:31:08 metrics.py:137] Avg prompt throughput: 137.0 tokens/s, GPU KV cache usage: 56.2%
"""  # noqa: E501
HEALTHY_OTHERS = """\
[2025-03-29 18:18:34 TP0] Load weight end. type=Gemma3ForConditionalGeneration, dtype=torch.bfloat16, avail mem=3.64 GB, mem usage=18.82 GB.
[2025-03-29 18:19:34 TP0] Decode batch. #running-req: 4, #token: 9071, token usage: 0.01, cuda graph: True, gen throughput (token/s): 137.9
llama_kv_cache_init:     CUDA11 KV buffer size =   144.00 MiB
slot launch_slot_: id  0 | task 137 | processing task
kernel: usb 1-1: new high-speed USB device number 9 using xhci_hcd
systemd[1]: app.service: Main process exited, code=exited, status=0/SUCCESS
grpc error: RESOURCE_EXHAUSTED: Received message larger than max (5242880 vs. 4194304)
[Trainer] ran out of patience, stopping early; room for improvement
stepwell: error [hardware_error]: model.device is cuda, but torch finds no CUDA device. Use --device cpu.
stepwell: serving house on http://127.0.0.1:8000/v1
"""  # noqa: E501


@pytest.mark.parametrize("log", [HEALTHY_VLLM, HEALTHY_OTHERS, "", "\n\n"])
def test_an_ordinary_log_has_no_message(log: str) -> None:
    report = explain_log(log.splitlines())
    assert report.explanation is None
    assert not report.kinds


def test_advice_at_the_start_is_not_suspicious() -> None:
    assert not explain_log(HEALTHY_VLLM.splitlines()).suspicious


def test_unknown_text_is_shown_and_not_explained() -> None:
    report = explain_log(["frobnicator: gave up: cannot allocate 12 quads of core"])
    assert report.explanation is None
    assert report.suspicious == ((1, "frobnicator: gave up: cannot allocate 12 quads of core"),)
    assert len(report.as_dict()["send"]) == 3


def test_a_message_cut_short_is_unknown() -> None:
    report = explain_log(["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2"])
    assert report.explanation is None
    assert report.suspicious


def test_the_last_that_explains_most_is_chosen_and_all_are_counted() -> None:
    first, second = fixture("torch_full"), fixture("torch_too_large")
    log = [*first, *HEALTHY_VLLM.splitlines(), *second, *["between"] * 500, *fixture("exit_137")]
    report = explain_log(log)
    assert report.explanation is not None
    assert report.explanation.kind == "torch_too_large"
    assert report.explanation.line == log.index(second[1]) + 1
    assert report.kinds == {"torch_full": 1, "torch_too_large": 1, "exit_137": 2}


def test_a_death_long_after_is_its_own_story() -> None:
    log = [*fixture("torch_full"), *["serving"] * 5000, *fixture("exit_137")]
    found = explain_log(log).explanation
    assert found is not None and found.kind == "exit_137"


def test_facts_of_the_start_split_the_numbers() -> None:
    message = fixture("vllm_sampler_warmup")[:1]
    start = [
        "INFO 03-19 07:20:53 [gpu_model_runner.py:1] Model loading took 9.5 GiB and 7 seconds",
        "INFO 03-19 07:21:53 [kv_cache_utils.py:1] Available KV cache memory: 8.25 GiB",
    ]
    found = explain_log([*start, *message]).explanation
    assert found is not None
    sizes = {holder.name: (holder.size or 0) / 2**30 for holder in found.holders}
    assert sizes["weights"] == 9.5
    assert sizes["KV pool"] == 8.25
    assert sizes["PyTorch's other tensors"] == pytest.approx(20.21 - 0.125 - 9.5 - 8.25, abs=0.01)


def test_share_is_lowered_by_what_was_missing() -> None:
    message = fixture("torch_full")[0]
    log = [
        "INFO vllm engine args: gpu_memory_utilization=0.95",
        "Traceback (most recent call last):",
        '  File "vllm/v1/worker/gpu_worker.py", line 588, in compile_or_warm_up_model',
        "    cuda_graph_memory_bytes = self.model_runner.capture_model()",
        message,
    ]
    found = explain_log(log).explanation
    assert found is not None
    assert found.phase is Phase.GRAPHS
    assert found.steps[0].change.startswith("Lower --gpu-memory-utilization, from 0.95 to 0.93")
    assert found.as_dict()["oom"] == "start"


def test_serving_is_told_from_the_start() -> None:
    log = [
        "INFO vllm started",
        "Traceback (most recent call last):",
        '  File "vllm/v1/engine/core.py", line 1170, in run_busy_loop',
        "    self._process_engine_step()",
        fixture("torch_full")[0],
    ]
    found = explain_log(log).explanation
    assert found is not None
    assert found.as_dict()["oom"] == "run"
    assert "Raising it makes this worse" in found.steps[0].effect


def test_numbers_are_read_from_a_wrapping_error() -> None:
    head = "Exception: Capture cuda graph failed: "
    found = explain_log(["sglang", head + fixture("torch_full")[0]]).explanation
    assert found is not None
    assert found.capacity is not None and found.phase is Phase.GRAPHS
    assert "--mem-fraction-static" in found.steps[0].change


def test_a_long_log_keeps_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    retract = fixture("sglang_retract")[0]
    report = explain_log(retract for _ in range(5000))
    assert report.explanation is not None and report.lines == 5000
    assert sum(report.kinds.values()) <= 256


def test_colours_and_progress_bars_do_not_hide_a_message() -> None:
    message = fixture("vllm_no_blocks")[-1].replace("vllm-1  | ", "")
    log = [f"\x1b[0;36m(EngineCore_DP0 pid=7)\x1b[0;0m \x1b[31m{message}\x1b[0m"]
    found = explain_log(log).explanation
    assert found is not None and found.kind == "vllm_no_blocks" and "\x1b" not in found.text
    bar = "Capturing CUDA graph shapes:   0%|          | 0/35\r  3%|"
    found = explain_log([f"{bar}\r{fixture('torch_full')[0]}\r\n"]).explanation
    assert found is not None and found.phase is Phase.GRAPHS and found.line == 1


def test_ranks_prefixes_do_not_hide_a_message() -> None:
    plain = explained("torch_full")
    found = explain_log([f"[rank0]: {fixture('torch_full')[0]}"]).explanation
    assert found is not None and found.requested == plain.requested


@given(st.sampled_from(sorted(EXPECTED)), st.data())
def test_damaged_messages_never_raise(name: str, data: st.DataObject) -> None:
    """Cut, doubled, with other digits, as copied by hand: explained or not, and printable."""
    text = "\n".join(fixture(name))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", "0", ".", "9", ",", "\n", "(", "-"]))
            + (text[at + cut :])
        )
    found = explain_log(text.splitlines()).explanation
    if found is not None:
        json.dumps(found.as_dict())
        assert found.finding().title


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_zeros_never_raise(name: str) -> None:
    explain_log([re.sub(r"\d", "0", line) for line in fixture(name)])
