"""Bounds from measured rates, and the summary line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.base.errors import ConfigError
from stepwell.evaluate.arrival import Arrival
from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.memory import AllocationCounter, malloc_bytes
from stepwell.evaluate.options import BenchOptions, Section
from stepwell.evaluate.sections import rate_rows
from stepwell.evaluate.serve_bench import run_serve_bench, summarize
from stepwell.evaluate.workload import Request, Workload

CEILING = Ceiling(bandwidth_one=2e9, bandwidth_all=4e9, flops_one=1e12, flops_all=2e12, threads=2)
COST = ModelCost(
    parameters=100, head_parameters=50, decode_bytes=300, kv_bytes=8, attention_width=0
)


def test_bounds_follow_from_bytes_and_flops() -> None:
    assert COST.decode_bound(CEILING) == pytest.approx(4e9 / 300)
    assert COST.prefill_bound(CEILING, length=10) == pytest.approx(2e12 / 200)


def test_a_mix_is_bound_by_whichever_takes_longer() -> None:
    long_output = Workload("w", (Request((1,), 1000),))
    assert COST.mix_seconds(CEILING, long_output) == pytest.approx(1000 * 300 / 4e9)
    long_prompt = Workload("w", (Request((1,) * 10**6, 1),))
    flops = 2 * 100 * 10**6 + 2 * 150
    assert COST.mix_seconds(CEILING, long_prompt) == pytest.approx(flops / 2e12)


def test_attention_grows_with_the_square_of_the_prompt() -> None:
    cost = ModelCost(parameters=0, head_parameters=0, decode_bytes=1, kv_bytes=1, attention_width=3)
    assert cost.prefill_flops(20) == 4 * cost.prefill_flops(10) == 2 * 3 * 400


def test_the_better_of_two_ceilings_is_kept() -> None:
    other = Ceiling(bandwidth_one=3e9, bandwidth_all=1e9, flops_one=5e11, flops_all=3e12, threads=2)
    assert CEILING.best(other) == Ceiling(
        bandwidth_one=3e9, bandwidth_all=4e9, flops_one=1e12, flops_all=3e12, threads=2
    )


def test_one_thread_has_one_row_for_each_rate() -> None:
    assert [what for what, _ in rate_rows(CEILING)] == [
        "read bandwidth, 1 thread", "read bandwidth, 2 threads",
        "bf16 GEMM, 1 thread", "bf16 GEMM, 2 threads",
    ]  # fmt: skip
    alone = Ceiling(bandwidth_one=2e9, bandwidth_all=3e9, flops_one=1e12, flops_all=1e12, threads=1)
    assert rate_rows(alone) == [
        ("read bandwidth, 1 thread", "3.0 GB/s"),
        ("bf16 GEMM, 1 thread", "1.000 TFLOP/s"),
    ]


def test_a_machine_with_an_int8_product_has_its_rate_too() -> None:
    fast = replace(CEILING, int8_all=3e12)
    assert rate_rows(fast)[-1] == ("int8 GEMM, 2 threads", "3.000 TOP/s")
    assert CEILING.best(fast).int8_all == fast.best(CEILING).int8_all == 3e12
    assert CEILING.best(CEILING).int8_all is None


def test_the_counter_sees_new_memory_and_nothing_else() -> None:
    if malloc_bytes() is None:
        pytest.skip("this C library does not tell what malloc holds")
    counter = AllocationCounter()
    counter.warm(pool_address=1)
    counter.start()
    counter.step(pool_address=1)
    kept = bytearray(1 << 30)  # untouched, and more than any heap has in reserve
    counter.step(pool_address=1)
    counter.step(pool_address=1)
    counter.step(pool_address=2)
    result = counter.result()
    assert (result["steps"], result["steady_allocations"]) == (4, 2)
    assert result["bytes_grown"] >= len(kept)


def test_the_summary_is_flat_and_says_what_was_not_measured() -> None:
    memory = Section("memory", "", (), (), {"kv_waste": 0.01, "steady_allocations": 0})
    line = summarize(BenchOptions(rivals=("openvino",)), {"memory": memory}, seconds=1.23456)
    assert line["kv_waste"] == 0.01
    assert line["steady_allocations"] == 0
    assert line["rivals"] == {}
    for name in ("speedup_vs_static_batch", "warm_ttft_speedup", "http_overhead", "p99_ttft_s"):
        assert line[name] is None


def test_a_rival_that_did_not_run_is_null() -> None:
    rates = {"stepwell": {"median": 9.0, "stepwell_ratio": 1.0}, "x": {"stepwell_ratio": 2.0}}
    figures = {"output_tokens_per_s": rates, "bound_output_tokens_per_s": 18.0}
    race = Section("throughput", "", (), (), figures)
    line = summarize(BenchOptions(rivals=("x", "openvino")), {"throughput": race}, seconds=1)
    assert line["rivals"] == {"x": 2.0, "openvino": None}
    assert line["share_of_ceiling"] == 0.5


@pytest.mark.parametrize(
    "options",
    [
        BenchOptions(sections=("dance",)),
        BenchOptions(rounds=0),
        BenchOptions(prompt=(9, 3)),
        BenchOptions(arrival=Arrival.TRACE),
        BenchOptions(url="http://x/v1"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(options: BenchOptions) -> None:
    with pytest.raises(ConfigError):
        run_serve_bench(options, on_section=print, say=print)
