"""Deltas to JSON: fast and full chunks agree, offsets, labels, mailbox, histograms."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import pytest

pytest.importorskip("prometheus_client")

from stepwell.base.config import ServerConfig
from stepwell.base.errors import Unauthorized
from stepwell.base.hierarchy import WorkloadClass
from stepwell.base.request import (
    Delta,
    EngineStats,
    FinishReason,
    MemoryUse,
    Timings,
    TokenLogprobs,
    Usage,
)
from stepwell.server.async_engine import Mailbox, Wake, hold_seconds
from stepwell.server.auth import Caller, KeyRing, is_loopback, load_keys
from stepwell.server.logprobs import LegacyLogprobs, chat_logprobs, token_label
from stepwell.server.metrics import Histogram, Metrics
from stepwell.server.protocol import Kind, prepare
from stepwell.server.reply import ReplyBuilder
from tests.api.fake_engine import FakeInfo, FakeTokenizer

TOKENIZER = FakeTokenizer()
ODD_TEXTS = ['"', "\\", "\n\n", "data: x", "\u2028", "é", "😀", "\x00\x1f", "</script>", "\ufffd"]


def make_job(kind=Kind.CHAT, **fields):
    body = (
        {"messages": [{"role": "user", "content": "q"}]} if kind is Kind.CHAT else {"prompt": "q"}
    )
    return prepare(body | fields, kind=kind, info=FakeInfo(), tokenizer=TOKENIZER, now=0.0)


def delta(job, text="", *, index=0, tokens=(5,), **fields):
    return Delta(
        request_id=job.requests[0].request_id, index=index, token_ids=tokens, text=text, **fields
    )


def final(job, text="", **fields):
    return delta(job, text, finish_reason=FinishReason.STOP, usage=Usage(1, 0, 3), **fields)


def payload(chunk):
    assert chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2
    return json.loads(chunk[6:])


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("text", ODD_TEXTS)
@pytest.mark.parametrize("usage", [False, True])
def test_fast_chunk_says_the_same_as_the_full_one(kind, text, usage):
    options = {"stream_options": {"include_usage": True}} if usage else {}
    job = make_job(kind, stream=True, **options)
    builder = ReplyBuilder(job, tokenizer=TOKENIZER)
    first = payload(builder.chunk(builder.add([delta(job, text)])[0]))
    second = payload(builder.chunk(builder.add([delta(job, text)])[0]))
    if kind is Kind.CHAT:
        assert first["choices"][0]["delta"].pop("role") == "assistant"
    assert first == second
    assert ("usage" in second) is usage


def test_a_token_without_text_makes_no_chunk_but_the_first():
    job = make_job(stream=True)
    builder = ReplyBuilder(job, tokenizer=TOKENIZER)
    assert builder.chunk(builder.add([delta(job, "")])[0]) != b""
    assert builder.chunk(builder.add([delta(job, "")])[0]) == b""
    assert payload(builder.chunk(builder.add([delta(job, "x")])[0]))["choices"][0]["delta"] == {
        "content": "x"
    }


def test_pending_deltas_merge_into_one_chunk():
    job = make_job(stream=True)
    builder = ReplyBuilder(job, tokenizer=TOKENIZER)
    touched = builder.add([delta(job, "a"), delta(job, "b"), final(job, "c")])
    assert len(touched) == 1
    choice = payload(builder.chunk(touched[0]))["choices"][0]
    assert (choice["delta"]["content"], choice["finish_reason"]) == ("abc", "stop")
    assert builder.finished


def test_label_of_a_partial_character():
    assert token_label(TOKENIZER, 2 + 0xE2) == "bytes:\\xe2"
    assert token_label(TOKENIZER, 2 + ord("x")) == "x"


def test_minus_infinity_becomes_a_number():
    entry = TokenLogprobs(5, float("-inf"), 9, ((6, -0.1),))
    rows = chat_logprobs([entry], tokenizer=TOKENIZER, top=1)
    assert json.loads(json.dumps(rows, allow_nan=False))[0]["logprob"] == -9999.0


def test_offsets_of_any_text_point_at_its_characters():
    generator = random.Random(3)
    for _ in range(50):
        text = "".join(generator.choice("aé😀\n") for _ in range(12))
        ids = TOKENIZER.encode(text)
        columns = LegacyLogprobs(TOKENIZER, 0)
        for token_id in ids:
            columns.add(token_id, None)
        taken = columns.take()
        assert taken["text_offset"] == sorted(taken["text_offset"])
        for token_id, offset in zip(ids, taken["text_offset"], strict=True):
            data = TOKENIZER.token_bytes(token_id)
            if token_id > 1 and data.isascii():
                assert text[offset] == data.decode()
        assert columns.take()["tokens"] == []


def last(job, index):
    return Delta(
        request_id=job.requests[0].request_id, index=index, finish_reason=FinishReason.LENGTH
    )


def test_streaming_mailbox():
    """The first delta and ends are urgent, the rest may wait and leave together."""
    job = make_job(n=2)

    async def main():
        box = Mailbox(job.requests, streams=True)
        assert box.put(delta(job, "a")) is Wake.NOW
        assert box.put(delta(job, "b", index=1)) is Wake.SOON
        box.wake()
        assert len(await box.take()) == 2
        waiting = asyncio.create_task(box.take())
        assert box.put(delta(job, "c")) is Wake.SOON
        await asyncio.sleep(0)
        assert not waiting.done()
        assert box.put(final(job)) is Wake.NOW
        box.wake()
        assert len(await waiting) == 2
        assert box.put(last(job, 1)) is Wake.NOW
        box.wake()
        assert len(await box.take()) == 1
        assert await box.take() == []

    asyncio.run(main())


def test_whole_mailbox_wakes_once():
    job = make_job(n=2)

    async def main():
        box = Mailbox(job.requests, streams=False)
        wakes = [box.put(d) for d in (delta(job, "a"), last(job, 0), delta(job, "b", index=1))]
        assert wakes == [Wake.LATER] * 3
        assert box.put(last(job, 1)) is Wake.NOW
        failed = Mailbox(job.requests, streams=False)
        assert (
            failed.put(Delta(request_id="x", index=0, finish_reason=FinishReason.ERROR)) is Wake.NOW
        )
        box.wake()
        assert len(await box.take()) == 4

    asyncio.run(main())


def test_few_streams_are_not_held_back():
    assert hold_seconds(1) <= 0.001 and hold_seconds(32) <= 0.032
    assert hold_seconds(100000) == 0.05


def test_histogram():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    assert histogram.cumulative() == [("1.0", 2), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum == 102.0


def test_metrics_page():
    metrics = Metrics(model_name="m", cache_config={"block_size": "16"})
    job = make_job(max_tokens=4)
    metrics.admitted(job.requests)
    metrics.step([delta(job, "a")], now=10.0)
    metrics.step([delta(job, "b")], now=10.5)
    timings = Timings(arrival=8.0, scheduled=9.0, first_token=10.0, finished=11.0, preemptions=1)
    metrics.step(
        [
            Delta(
                request_id=job.requests[0].request_id,
                index=0,
                token_ids=(1,),
                finish_reason=FinishReason.STOP,
                usage=Usage(7, 2, 3),
                timings=timings,
            )
        ],
        now=11.0,
    )
    stats = EngineStats(
        running=1,
        waiting=2,
        prompt_tokens=7,
        generation_tokens=3,
        prefix_queries=7,
        prefix_hits=2,
        preemptions=1,
        finished={"stop": 1},
        blocks_total=10,
        blocks_used=4,
        memory=MemoryUse(weights=11, pool=100, used=40, cached=20, waste=5, workspace=3),
    )
    page = metrics.render(stats).decode()
    labels = '{engine="0",model_name="m"}'
    for line in (
        f"vllm:num_requests_running{labels} 1.0",
        f"vllm:num_requests_waiting{labels} 2.0",
        f"vllm:kv_cache_usage_perc{labels} 0.4",
        f"vllm:prefix_cache_hits_total{labels} 2.0",
        f"vllm:prompt_tokens_total{labels} 7.0",
        f"vllm:generation_tokens_total{labels} 3.0",
        f"vllm:num_preemptions_total{labels} 1.0",
        f"vllm:time_to_first_token_seconds_sum{labels} 2.0",
        f"vllm:inter_token_latency_seconds_count{labels} 2.0",
        f"vllm:inter_token_latency_seconds_sum{labels} 1.0",
        f"vllm:request_queue_time_seconds_sum{labels} 1.0",
        f"vllm:request_time_per_output_token_seconds_sum{labels} 0.5",
        f"vllm:e2e_request_latency_seconds_sum{labels} 3.0",
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 1.0',
        'vllm:cache_config_info{block_size="16",engine="0",model_name="m"} 1.0',
        f"stepwell_weights_bytes{labels} 11.0",
        f"stepwell_kv_pool_bytes{labels} 100.0",
        f"stepwell_kv_used_bytes{labels} 40.0",
        f"stepwell_kv_cached_bytes{labels} 20.0",
        f"stepwell_kv_free_bytes{labels} 40.0",
        f"stepwell_kv_waste_bytes{labels} 5.0",
        f"stepwell_workspace_bytes{labels} 3.0",
    ):
        assert line in page, line


def test_metrics_forget_finished_choices():
    metrics = Metrics(model_name="m")
    job = make_job()
    metrics.step([delta(job, "a"), final(job, "b")], now=1.0)
    assert metrics._last_token == {}


def test_keys_are_not_kept_as_text():
    ring = KeyRing({"entry 1": "ada:secret-key workload=code"})
    assert "secret-key" not in repr(vars(ring))
    assert ring.caller_of("Bearer secret-key") == Caller("ada", WorkloadClass.CODE)
    with pytest.raises(Unauthorized):
        ring.caller_of(None)
    assert not len(load_keys(ServerConfig()))
    assert is_loopback("127.0.0.2") and not is_loopback("localhost.evil.org")


def test_server_needs_no_torch():
    code = (
        "import sys, stepwell.server.lifecycle, stepwell.cli.local\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
