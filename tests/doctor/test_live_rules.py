"""Each rule: found where it is planted, silent just below its bounds."""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from stepwell.doctor.alias import Engine
from stepwell.doctor.examine import examine
from stepwell.doctor.fetch import ModelCard
from stepwell.doctor.finding import Severity
from stepwell.doctor.quantity import Quantity as Q
from tests.doctor.windows import case

BUSY = {
    Q.PROMPT_TOKENS: 60_000.0, Q.PREFIX_QUERIES: 60_000.0, Q.PREFIX_HITS: 30_000.0,
    Q.GENERATION_TOKENS: 9_000.0, Q.FINISHED: 200.0, Q.REPLIES: 200.0, Q.PREEMPTIONS: 0.0,
    Q.EVICTED_TOKENS: 0.0, Q.RETURNED_TOKENS: 0.0, Q.FAILED: 0.0, Q.BROKEN: 0.0, Q.REFUSED: 0.0,
    Q.REFUSED_CONTEXT: 0.0, Q.REFUSED_QUEUE: 0.0, Q.TEXT: 3_000.0, Q.SHARED_TEXT: 1_500.0,
}  # fmt: skip
CALM = {
    Q.RUNNING: 4.0, Q.WAITING: 0.0, Q.KV_USAGE: 0.3, Q.KV_CAPACITY: 20_000.0, Q.PREFIX_CACHING: 1.0,
    Q.KV_POOL_BYTES: 1e9, Q.KV_USED_BYTES: 3e8, Q.KV_CACHED_BYTES: 6e8, Q.KV_WASTE_BYTES: 1e7,
    Q.KV_FREE_BYTES: 1e8, Q.STATS_AGE: 0.0, Q.LONGEST_SILENCE: 0.1, Q.BLOCK_TOKENS: 16.0,
    Q.OLDEST_RUNNING: 1.0,
}  # fmt: skip
SPENT = {
    Q.TTFT: (0.05, 200.0), Q.ITL: (0.01, 9_000.0), Q.QUEUE_TIME: (0.001, 200.0),
    Q.PREFILL_TIME: (0.04, 200.0), Q.DECODE_TIME: (0.5, 200.0), Q.PROMPT_LENGTH: (300.0, 200.0),
    Q.OUTPUT_LENGTH: (45.0, 200.0),
}  # fmt: skip
NOTHING = {Q.TTFT: (0.05, 0.0)}
HOST = {"used": 1e8, "capacity": 1e9, "healthy": 1.0, "failures": 0.0, "chunks": 100.0,
        "load_seconds": 0.002, "loaded_bytes": 1e7}  # fmt: skip


def found(*, last=None, always=None, spent=None, **more):
    made = case(
        last={**BUSY, **(last or {})},
        always={**CALM, **(always or {})},
        spent={**SPENT, **(spent or {})},
        **more,
    )
    return {finding.code: finding for finding in examine(made).findings}


def test_a_healthy_server_has_no_finding():
    assert found() == {}
    assert found(tiers={"host": HOST}) == {}


def test_an_idle_server_has_no_finding():
    idle = case(always={**CALM, Q.RUNNING: 0.0, **dict.fromkeys(BUSY, 0.0)}, spent=NOTHING)
    assert examine(idle).findings == ()


def test_pool_too_small_by_preemptions():
    finding = found(last={Q.PREEMPTIONS: 30.0})["pool_too_small"]
    assert finding.severity is Severity.HIGH
    assert finding.evidence["preemptions"] == 30.0
    assert "--pool" in finding.action
    assert found(last={Q.PREEMPTIONS: 2.0}) == {}
    assert found(last={Q.PREEMPTIONS: 3.0, Q.FINISHED: 2_000.0}) == {}


def test_pool_too_small_by_waiting():
    full = {Q.KV_USAGE: 0.95, Q.WAITING: 6.0}
    finding = found(always=full)["pool_too_small"]
    assert finding.gain_share == pytest.approx(0.6)
    assert list(found(always={**full, Q.WAITING_CAPACITY: 0.0})) == [], "they wait for other things"
    assert "pool_too_small" not in found(always={**full, Q.KV_USAGE: 0.5})


def test_the_next_request_counts_as_use_of_the_pool():
    big = {Q.PROMPT_LENGTH: (9_000.0, 200.0)}
    waiting = {Q.KV_USAGE: 0.5, Q.WAITING: 2.0}
    assert "pool_too_small" in found(always=waiting, spent=big)
    assert "pool_too_small" not in found(always=waiting)


def test_what_is_kept_to_grow_into_counts_as_use_of_the_pool():
    large = {Q.KV_USAGE: 0.5, Q.WAITING: 8.0, Q.RUNNING: 8.0, Q.BLOCK_TOKENS: 256.0,
             Q.KV_CAPACITY: 4_096.0}  # fmt: skip
    codes = found(always=large)
    assert "pool_too_small" in codes
    assert "overload" not in codes


def test_prefix_caching_off():
    off = {Q.PREFIX_CACHING: 0.0}
    assert found(always=off)["no_prefix_reuse"].severity is Severity.HIGH
    assert found(always=off, last={Q.SHARED_TEXT: 100.0}) == {}, "nothing repeats: nothing is lost"
    few = {Q.PROMPT_TOKENS: 900.0}
    assert found(always=off, last=few) == {}, "too little to say"


def test_caching_off_without_knowing_what_repeats_is_less_certain():
    vllm = {q: v for q, v in BUSY.items() if q not in (Q.TEXT, Q.SHARED_TEXT)}
    made = case(Engine.VLLM_V1, last=vllm, always={**CALM, Q.PREFIX_CACHING: 0.0}, spent=SPENT)
    (finding,) = examine(made).findings
    assert finding.code == "no_prefix_reuse"
    assert finding.severity is Severity.MEDIUM
    assert "unknown" in finding.symptom


def test_prompts_that_repeat_but_differ_early():
    late = {Q.PREFIX_HITS: 100.0, Q.SHARED_TEXT: 2_700.0}
    finding = found(last=late)["no_prefix_reuse"]
    assert "90%" in finding.symptom
    assert found(last={**late, Q.SHARED_TEXT: 300.0}) == {}, "prompts that share nothing"
    evicted = {**late, Q.RETURNED_TOKENS: 50_000.0}
    assert "no_prefix_reuse" not in found(last=evicted), "it was reusable, but evicted"


def test_idle_sessions():
    back = {Q.RETURNED_TOKENS: 20_000.0, Q.EVICTED_TOKENS: 60_000.0}
    finding = found(last=back)["idle_sessions"]
    assert finding.evidence["idle_share_of_pool"] == pytest.approx(0.6)
    assert "--host-tier" in finding.action
    assert found(last={Q.EVICTED_TOKENS: 60_000.0}) == {}, "a full cache is healthy"
    assert "idle_sessions" not in found(last=back, tiers={"host": HOST})


def test_idle_sessions_by_how_long_blocks_lay():
    seen = {q: v for q, v in BUSY.items() if q not in (Q.RETURNED_TOKENS, Q.EVICTED_TOKENS)}
    seen[Q.PREFIX_HITS] = 6_000.0
    spent = {**SPENT, Q.IDLE_BEFORE_EVICT: (12.0, 300.0)}
    made = case(Engine.VLLM_V1, last=seen, always=CALM, spent=spent)
    (finding,) = examine(made).findings
    assert finding.code == "idle_sessions"
    assert finding.severity is Severity.MEDIUM
    assert "12.00 s" in finding.symptom
    seen[Q.PREFIX_HITS] = 50_000.0
    made = case(Engine.VLLM_V1, last=seen, always=CALM, spent=spent)
    assert examine(made).findings == ()


def test_recomputed_although_there_are_tiers():
    back = {Q.RETURNED_TOKENS: 20_000.0, Q.RESTORED_TOKENS: 1_000.0}
    assert list(found(last=back, tiers={"host": HOST})) == ["recomputed_context"]
    restored = {**back, Q.RESTORED_TOKENS: 19_000.0}
    assert found(last=restored, tiers={"host": HOST}) == {}


def test_requests_refused_as_too_long():
    card = ModelCard("m", "m", 4096)
    finding = found(last={Q.REFUSED_CONTEXT: 40.0, Q.REFUSED: 40.0}, card=card)["oversize_context"]
    assert "4,096" in finding.diagnosis
    assert found(last={Q.REFUSED_CONTEXT: 2.0}, card=card) == {}


def test_a_context_limit_far_above_use():
    card = ModelCard("m", "m", 32_768)
    finding = found(card=card)["oversize_context"]
    assert finding.severity is Severity.MEDIUM
    assert found(card=card, always={Q.KV_CAPACITY: 200_000.0}) == {}, "the pool carries it"
    assert found(card=ModelCard("m", "m", 2048)) == {}, "it is used"


def test_sick_tiers():
    slow = {**HOST, "load_seconds": 0.4}
    recompute = {Q.CHUNK_RECOMPUTE: 0.05}
    assert found(always=recompute, tiers={"disk": HOST}) == {}
    finding = found(always=recompute, tiers={"disk": slow})["sick_tier"]
    assert finding.evidence["tier"] == "disk"
    off = found(tiers={"disk": {**HOST, "healthy": 0.0}})["sick_tier"]
    assert off.severity is Severity.HIGH
    failing = found(tiers={"disk": {**HOST, "failures": 9.0}}, before={"disk": HOST})
    assert "9 transfers failed" in failing["sick_tier"].symptom
    assert found(tiers={"disk": {**HOST, "failures": 2.0}}, before={"disk": HOST}) == {}
    regret = {Q.RESTORE_REGRET: 2.0, Q.RESTORE_SAVED: 0.5}
    assert "sick_tier" in found(last=regret, tiers={"disk": HOST})
    assert found(last={Q.RESTORE_REGRET: 0.4, Q.RESTORE_SAVED: 5.0}, tiers={"disk": HOST}) == {}


def test_a_tier_that_was_never_hit():
    idle = {"host": {**HOST, "loaded_bytes": 0.0}}
    assert found(tiers=idle, uptime=9_000.0)["tier_never_hit"].severity is Severity.LOW
    assert found(tiers=idle, uptime=60.0) == {}, "nobody can have returned yet"
    assert found(tiers=idle, uptime=9_000.0, last={Q.RESTORED_TOKENS: 4_000.0}) == {}


def test_an_engine_that_stands_still():
    made = case(first=BUSY, last=BUSY, always=CALM, spent=NOTHING)
    assert [f.code for f in examine(made).findings] == ["engine_stalled"]
    short = case(first=BUSY, last=BUSY, always=CALM, spent=NOTHING, every=0.5)
    assert examine(short).findings == (), "a long step is no stall"
    assert "engine_stalled" in found(always={Q.STATS_AGE: 9.0})
    assert "engine_stalled" in found(missed=4)
    assert found(missed=1) == {}


def test_one_stuck_request():
    finding = found(always={Q.LONGEST_SILENCE: 30.0, Q.OLDEST_RUNNING: 40.0})["stuck_request"]
    assert finding.evidence["oldest_running_seconds"] == 40.0
    assert found(always={Q.LONGEST_SILENCE: 4.0}) == {}
    slow = {Q.ITL: (1.0, 200.0), Q.TTFT: (2.0, 200.0)}
    assert found(always={Q.LONGEST_SILENCE: 30.0}, spent=slow) == {}, "all are as slow as that"


def test_overload():
    many = {Q.WAITING: 9.0}
    assert list(found(always=many)) == ["overload"]
    assert found(always={Q.WAITING: 2.0}) == {}
    growing = found(first={Q.WAITING: 0.0}, last={Q.WAITING: 12.0}, always={Q.RUNNING: 40.0})
    assert list(growing) == ["overload"]
    assert list(found(last={Q.REFUSED_QUEUE: 5.0})) == ["overload"]


def test_a_queue_behind_prompts():
    prompts = {Q.PREFILL_TIME: (0.6, 200.0), Q.DECODE_TIME: (0.2, 200.0),
               Q.QUEUE_TIME: (0.9, 200.0)}  # fmt: skip
    assert list(found(always={Q.WAITING: 2.0}, spent=prompts)) == ["prefill_bound"]
    assert found(spent=prompts) == {}, "nobody waits"


def test_errors():
    assert found(last={Q.BROKEN: 20.0})["errors"].severity is Severity.HIGH
    assert found(last={Q.FAILED: 2.0}) == {}


def test_half_empty_blocks():
    waste = {Q.KV_USAGE: 0.7, Q.KV_WASTE_BYTES: 2e8, Q.KV_USED_BYTES: 4e8}
    assert list(found(always=waste)) == ["fragmentation"]
    assert found(always={**waste, Q.KV_USAGE: 0.2}) == {}


def test_the_largest_gain_comes_first():
    codes = list(found(
        always={Q.WAITING: 9.0, Q.PREFIX_CACHING: 0.0}, last={Q.FAILED: 20.0}
    ))  # fmt: skip
    assert codes[0] == "overload"
    assert set(codes) == {"overload", "errors", "no_prefix_reuse"}
