"""What is asked of every rival and how it is counted, with an engine made of plain Python."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bench.rivals.shared import Batch, Request, Started, Turn, operations, require
from bench.rivals.usage import seconds_since_start, thread_seconds, used
from bench.rivals.vllm_cpu import preloads

REQUESTS = [{"prompt": [1, 2], "max_tokens": 3}, {"prompt": [4], "max_tokens": 1}]


class Abacus:
    """Answers each prompt with its last token, `short` tokens too few."""

    short = 0

    def start(self, model: Path, *, weights: str) -> Started:
        return Started("Abacus 1.2", {"abacus": "1.2"}, threads=2, convert_seconds=0.25)

    def generate(self, requests: Sequence[Request], batch: int = 8) -> Batch:
        outputs = [[r["prompt"][-1]] * (r["max_tokens"] - self.short) for r in requests]
        return Batch(outputs, [0.5] * batch)

    def turns(self, prompt: list[int], *, max_tokens: int, count: int) -> Iterator[Turn]:
        for turn in range(count):
            first = 8.0 if turn == 0 else float(turn)
            yield Turn.of(100.0, [100.0 + first + 0.5 * step for step in range(max_tokens)])


def test_load_tells_engine_threads_and_start_without_conversion() -> None:
    since = seconds_since_start()
    found = operations(Abacus())["load"]("anywhere", settings={"cache.pool": "1MiB"})
    assert found["engine"] == "Abacus 1.2"
    assert found["versions"] == {"abacus": "1.2"}
    assert found["threads"] == 2
    assert found["convert_seconds"] == 0.25
    assert since - 0.25 <= found["startup_seconds"] <= seconds_since_start() - 0.25


def test_run_counts_each_request_and_passes_options_on() -> None:
    found = operations(Abacus())["run"](REQUESTS, tokens=1, batch=5)
    assert found["counts"] == [3, 1]
    assert found["output_tokens"] == 4
    assert found["complete"]
    assert found["tokens"] == [[2, 2, 2], [4]]
    assert len(found["ttft"]) == 5
    assert operations(Abacus())["run"](REQUESTS)["tokens"] is None


def test_an_output_of_the_wrong_length_is_not_complete() -> None:
    rival = Abacus()
    rival.short = 1
    found = operations(rival)["run"](REQUESTS)
    assert found["counts"] == [2, 0]
    assert not found["complete"]


def test_the_first_turn_of_each_prompt_is_the_cold_one() -> None:
    found = operations(Abacus())["ttft"]([[1], [2]], max_tokens=3, warm=2)
    warm = [1.0, 2.0, 1.0, 2.0]
    assert found == {"cold": [8.0, 8.0], "warm": warm, "decode_step": 0.5, "decode_rate": 2.0}


def test_weights_that_an_adapter_does_not_have_are_refused() -> None:
    require("int8", ("bf16", "int8"))
    with pytest.raises(ValueError, match="no int4 weights: this adapter has bf16, int8"):
        require("int4", ("bf16", "int8"))


def test_a_thread_that_works_is_seen_and_one_that_waits_is_not() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("processor time by thread is read from Linux's /proc")
    ready = threading.Event()
    waiting = threading.Thread(target=ready.wait)
    waiting.start()
    before, start = thread_seconds(), time.process_time()
    while time.process_time() - start < 0.2:
        pass
    found = used(before, thread_seconds(), seconds=0.2)
    ready.set()
    waiting.join()
    assert found.threads == 1
    assert 0.5 < found.cores < 2


def test_vllm_preloads_what_its_environment_has(tmp_path: Path) -> None:
    assert preloads(tmp_path) == []
    for name in ("libiomp5.so", "libiomp5.a", "libtcmalloc_minimal.so.4"):
        (tmp_path / name).touch()
    assert [Path(found).name for found in preloads(tmp_path)] == [
        "libtcmalloc_minimal.so.4",
        "libiomp5.so",
    ]
