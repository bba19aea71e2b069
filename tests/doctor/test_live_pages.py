"""Pages of six engines: whose they are, what they say, and that a healthy one has no finding."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from stepwell.doctor.alias import Engine, detect
from stepwell.doctor.case import Case
from stepwell.doctor.examine import examine
from stepwell.doctor.page import Histogram, read_page
from stepwell.doctor.quantity import Quantity as Q
from tests.doctor.windows import text, window_of, with_values

PAGES = {
    "vllm_v0": Engine.VLLM_V0,
    "vllm_v1_idle": Engine.VLLM_V1,
    "vllm_v1_load_1": Engine.VLLM_V1,
    "sglang": Engine.SGLANG,
    "sglang_old": Engine.SGLANG,
    "tgi": Engine.TGI,
    "lmcache": Engine.LMCACHE,
}
SAID = {
    "vllm_v0": {
        Q.RUNNING: 8, Q.WAITING: 0, Q.SWAPPED: 0, Q.KV_USAGE: 0.021, Q.HIT_RATE: 0.61,
        Q.KV_CAPACITY: 440_000, Q.BLOCK_TOKENS: 16, Q.PREFIX_CACHING: 1, Q.PREEMPTIONS: 0,
        Q.PROMPT_TOKENS: 614_400, Q.GENERATION_TOKENS: 102_400, Q.FINISHED: 512,
    },
    "vllm_v1_load_1": {
        Q.KV_CAPACITY: 131_072, Q.BLOCK_TOKENS: 128, Q.PREFIX_CACHING: 1, Q.PREEMPTIONS: 0,
        Q.WAITING_CAPACITY: 0, Q.REFUSED: 0, Q.FAILED: 0, Q.HITS_HOST: 0, Q.EXTERNAL_QUERIES: 0,
    },
    "sglang": {
        Q.RUNNING: 12, Q.WAITING: 0, Q.KV_USAGE: 0.0293, Q.KV_CAPACITY: 1_024_000,
        Q.KV_USED_TOKENS: 30_000, Q.KV_CACHED_TOKENS: 300_000, Q.KV_FREE_TOKENS: 694_000,
        Q.PREFIX_QUERIES: 2_000_000, Q.PREFIX_HITS: 1_000_000, Q.HITS_HOST: 64_000,
        Q.HITS_DISK: 32_000, Q.PREEMPTIONS: 0, Q.WORKSPACE_BYTES: 1.5 * (1 << 30),
        Q.WEIGHTS_BYTES: 14.2 * (1 << 30), Q.KV_POOL_BYTES: 54.7 * (1 << 30),
    },
    "sglang_old": {Q.RUNNING: 160, Q.HIT_RATE: 0.0075, Q.KV_USAGE: 0.28, Q.KV_USED_TOKENS: 123_859},
    "tgi": {
        Q.RUNNING: 10, Q.WAITING: 0, Q.FINISHED: 884, Q.REPLIES: 900, Q.REFUSED: 6, Q.FAILED: 0,
        Q.PROMPT_TOKENS: 240_000, Q.GENERATION_TOKENS: 88_400, Q.KV_USED_TOKENS: 21_000,
    },
    "lmcache": {
        Q.EXTERNAL_QUERIES: 1_250_000, Q.EXTERNAL_HITS: 500_000, Q.RESTORED_TOKENS: 498_000,
        Q.STORED: 900_000,
    },
}  # fmt: skip
HISTOGRAMS = {
    "vllm_v0": (Q.TTFT, Q.ITL, Q.E2E, Q.PROMPT_LENGTH, Q.OUTPUT_LENGTH),
    "vllm_v1_load_1": (
        Q.TTFT, Q.ITL, Q.E2E, Q.QUEUE_TIME, Q.PREFILL_TIME, Q.DECODE_TIME, Q.PROMPT_LENGTH,
        Q.OUTPUT_LENGTH,
    ),
    "sglang": (Q.TTFT, Q.ITL, Q.E2E, Q.QUEUE_TIME),
    "sglang_old": (Q.TTFT, Q.ITL, Q.E2E),
    "tgi": (Q.ITL, Q.E2E, Q.QUEUE_TIME, Q.PREFILL_TIME, Q.DECODE_TIME, Q.PROMPT_LENGTH),
    "lmcache": (Q.LOAD_TIME,),
}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_whose_page_it_is(name):
    page = read_page(text(name))
    assert detect(page) is PAGES[name]
    assert page.broken == 0


@pytest.mark.parametrize("name", SAID)
def test_what_a_page_says(name):
    window = window_of(text(name))
    for quantity, value in SAID[name].items():
        assert window.last(quantity) == pytest.approx(value), quantity
    for quantity in HISTOGRAMS[name]:
        found = window.whole(quantity)
        assert found is not None and found.count > 0 and found.mean is not None, quantity


@pytest.mark.parametrize("name", [n for n in PAGES if n != "tgi"])
def test_a_healthy_page_has_no_finding(name):
    page = text(name)
    assert examine(Case(window_of(page, page))).findings == ()


def test_tgi_tells_too_little_of_memory_and_that_is_a_remark():
    page = text("tgi")
    report = examine(Case(window_of(page, page)))
    assert [f.code for f in report.findings] == ["metrics_missing"]
    assert report.healthy
    assert "KV pool" in report.findings[0].symptom


def test_a_real_loaded_vllm_is_healthy_and_accounted_for():
    window = window_of(text("vllm_v1_idle"), text("vllm_v1_load_1"), text("vllm_v1_load_2"))
    report = examine(Case(window))
    assert report.findings == ()
    account = report.account
    assert account.rates["requests/s"] == pytest.approx(228 / 4, rel=0.01)
    assert account.hits["device"].value == pytest.approx(29184 / 68613, rel=0.01)
    assert account.latencies["time to first token"].recent
    assert account.latencies["queue"].coarse, "all within the first bucket: a bound, no figure"
    assert account.bound.value == "decode"
    assert "weights_bytes" in account.unknown, "unknown is unknown, not guessed"


def test_lmcache_beside_an_engine_is_a_tier_of_it():
    page = text("vllm_v1_load_1") + text("lmcache")
    window = window_of(page)
    assert window.engine is Engine.VLLM_V1
    assert window.last(Q.EXTERNAL_QUERIES) == 1_250_000
    assert window.tier("host")["used"] == 8 << 30
    assert Case(window).has_tiers


def test_ranks_that_report_the_same_count_once():
    assert window_of(text("sglang")).last(Q.RUNNING) == 12


def test_faults_are_found_on_pages_of_each_engine():
    labels = '{model_name="meta-llama/Llama-3.1-8B-Instruct"}'
    old = text("vllm_v0")
    sick = with_values(old, {
        f"vllm:num_requests_waiting{labels}": 20,
        f"vllm:gpu_cache_usage_perc{labels}": 0.99,
        f"vllm:num_preemptions_total{labels}": 40,
    })  # fmt: skip
    assert codes(old, sick, sick) == ["pool_too_small"]
    sglang = text("sglang")
    waiting = with_values(sglang, {
        "sglang:num_queue_reqs": 30, "sglang:full_token_usage": 0.98,
    })  # fmt: skip
    assert codes(waiting, waiting, waiting) == ["pool_too_small"]
    tgi = text("tgi")
    failing = with_values(tgi, {'tgi_request_failure{err="validation"}': 106,
                                "tgi_request_count": 1000})  # fmt: skip
    assert codes(tgi, failing) == ["requests_refused", "metrics_missing"]


def codes(*pages):
    return [f.code for f in examine(Case(window_of(*pages))).findings]


def test_a_restart_begins_anew():
    page = text("vllm_v0")
    after = with_values(page, {"process_start_time_seconds": 1.8e9,
                               "vllm:prompt_tokens_total": 10})  # fmt: skip
    window = window_of(page, page, after, after)
    assert window.restarts == 1
    assert window.gained(Q.PROMPT_TOKENS) == 0
    assert codes(page, page, after, after) == ["restarted"]


def test_broken_lines_cost_themselves_only():
    page = read_page('a 1\nb{x= 2\n\nc{y="1"} nonsense\n# comment\nd_total 4\n')
    assert page.broken == 2
    assert page.find("a") == [({}, 1.0)]
    assert page.find("d") == [({}, 4.0)]


def test_quantiles():
    found = Histogram((1.0, 2.0, float("inf")), (0.0, 10.0, 10.0), 15.0)
    assert found.quantile(0.5) == pytest.approx(1.5)
    assert found.mean == 1.5
    assert found.largest() == 2.0
    assert Histogram((1.0, float("inf")), (0.0, 4.0), 9.0).quantile(0.9) == 1.0
    assert Histogram((1.0,), (0.0,), 0.0).quantile(0.5) is None


def test_a_histogram_that_fell_began_anew():
    before = Histogram((1.0, 2.0), (5.0, 9.0), 12.0)
    after = Histogram((1.0, 2.0), (1.0, 2.0), 3.0)
    assert after.since(before) is after
    assert before.since(Histogram((1.0, 2.0), (1.0, 4.0), 5.0)).counts == (4.0, 5.0)
