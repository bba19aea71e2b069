"""The simulator's metric on traces small enough to do by hand, its readers and its verb."""

from __future__ import annotations

import io
import json
import random
from collections import OrderedDict

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import ConfigError
from stepwell.base.hierarchy import TierName, WorkloadClass
from stepwell.cache.settings import TierSpec
from stepwell.simulate.compare import Comparison, compare, open_trace, parse_codec, parse_tier
from stepwell.simulate.machine import SHAPES, make_machine
from stepwell.simulate.replay import POLICY_NAMES, Scenario, distinct_blocks, replay, single_tier
from stepwell.simulate.trace import Trace, TraceRecorder, TraceRequest, read_requests

MACHINE = make_machine("h100", SHAPES["llama-3.1-8b"])


def requests(*chains: str) -> list[TraceRequest]:
    """One request a second; each letter is a block, each block of a chain distinct by letter."""
    return [
        TraceRequest(float(i), 512 * len(c), 10, tuple(x.encode() for x in c))
        for i, c in enumerate(chains)
    ]


def run(policy: str, capacity: int, trace: list[TraceRequest], **kwargs):
    scenario = Scenario(
        policy=policy, tiers=kwargs.pop("tiers", single_tier(capacity * 100)), chunk_tokens=512,
        chunk_bytes=100, machine=MACHINE, instant=kwargs.pop("instant", True), **kwargs,
    )  # fmt: skip
    return replay(trace, scenario)


def test_lru_by_hand():
    # Three places: d evicts b, b evicts c; at the end only a is left of "ac".
    assert run("lru", 3, requests("ab", "ac", "d", "b", "ac")).hit_blocks == 1 + 1
    assert run("lru", 9, requests("ab", "ac", "d", "ab", "ac")).hit_blocks == 1 + 2 + 2


def test_belady_by_hand():
    # One place: x returns sooner than a, so it takes its place.
    assert run("belady", 1, requests("a", "x", "x", "a")).hit_blocks == 1
    assert run("belady", 1, requests("a", "b", "c", "a")).hit_blocks == 1, "never-used are refused"
    assert run("lru", 1, requests("a", "b", "c", "a")).hit_blocks == 0
    assert run("belady", 2, requests("a", "b", "c", "a", "b")).hit_blocks == 2


def test_lru_equals_a_naive_block_lru_on_random_sessions():
    source, chains = random.Random(4), []
    for _ in range(600):
        session, turns = source.randrange(40), source.randrange(1, 6)
        chains.append(tuple(b"%d.%d" % (session, i) for i in range(turns)))
    trace = [TraceRequest(float(i), 512 * len(c), 5, c) for i, c in enumerate(chains)]
    cache: OrderedDict[bytes, None] = OrderedDict()
    hits = 0
    for chain in chains:
        hits += sum(key in cache for key in chain)
        for key in reversed(chain):
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > 30:
            cache.popitem(last=False)
    assert run("lru", 30, trace).hit_blocks == hits


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_hits_everything_when_all_fits(policy):
    trace = requests("ab", "abc", "abcd", "x", "ab")
    result = run(policy, 50, trace)
    assert result.hit_blocks == 2 + 3 + 2
    assert result.saved_tokens == 512 * 7
    assert result.saved_seconds > 0 and result.ttft_p99 >= result.ttft_p50 > 0
    assert distinct_blocks(trace) == 5


def test_links_take_time_and_hits_save_more_than_they_cost():
    tiers = (TierSpec(name=TierName.HOST, capacity_bytes=10**9),
             TierSpec(name=TierName.DISK, capacity_bytes=10**9))  # fmt: skip
    chains = [tuple(b"%d.%d" % (s, i) for i in range(20)) for s in range(5)] * 4
    trace = [TraceRequest(float(i), 512 * 20, 5, c) for i, c in enumerate(chains)]
    result = run("value", 0, trace, tiers=tiers, instant=False)
    cold = run("value", 0, trace, tiers=(), instant=False)
    assert cold.saved_tokens == 0
    assert result.saved_tokens > 0 and result.ttft_p50 < cold.ttft_p50
    assert result.bytes["host"][1] == 100 * 100


def test_a_recorded_trace_reads_back_without_names_or_text():
    file = io.StringIO()
    recorder = TraceRecorder(file, block_tokens=32, start=100.0)
    keys = [b"key-one", b"key-two", b"key-three"]
    recorder.write(now=101.5, keys=keys, prompt=70, output=30, session="anna", tenant="acme",
                   workload=WorkloadClass.CODE)  # fmt: skip
    recorder.write(now=102.0, keys=keys[:2], prompt=64, output=1)
    text = file.getvalue()
    assert "anna" not in text and "acme" not in text and "key-one" not in text


def test_the_recorder_and_the_reader_agree(tmp_path):
    path = tmp_path / "own.jsonl"
    keys = [b"one", b"two", b"three"]
    with path.open("w", encoding="utf-8") as file:
        recorder = TraceRecorder(file, block_tokens=32, start=100.0)
        recorder.write(now=101.5, keys=keys, prompt=70, output=30, session="s",
                       workload=WorkloadClass.CODE)  # fmt: skip
        recorder.write(now=102.0, keys=keys[:2], prompt=64, output=1)
    trace = read_requests(path)
    first, second = trace.requests
    assert trace.block_tokens == 32 and (first.time, second.time) == (1.5, 2.0)
    assert first.blocks == second.blocks and len(first.produced) == 1
    assert first.workload is WorkloadClass.CODE and second.session is None


@pytest.mark.parametrize("text", ["", "not json\n", "[1]\n", '{"timestamp": 1}\n'])
def test_what_is_no_trace_is_refused(tmp_path, text):
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_requests(path)


def test_synthetic_traces_repeat_and_simulate():
    trace = open_trace("synthetic:500")
    assert list(trace.requests) == list(trace.requests) and len(trace.requests) == 500
    times = [request.time for request in trace.requests]
    assert times[-1] > times[0]
    runs, distinct = compare(trace, Comparison(policies=("lru", "value"), capacities=(0.1,)))
    assert distinct > 100 and all(run.result.block_hit_rate > 0 for run in runs)


def test_codecs_and_tiers_are_read():
    codec = parse_codec("lossless=1.5@3GiB")
    assert (codec.ratio, codec.speed) == (1.5, 3 * 1024**3)
    assert parse_tier("disk=1GiB") == (TierName.DISK, 1024**3)
    for wrong in ("tape=1GiB", "host"):
        with pytest.raises(ConfigError):
            parse_tier(wrong)


def test_a_better_codec_holds_more():
    trace = Trace("t", 512, requests(*["abcd", "efgh", "ijkl"] * 4))
    codecs = (parse_codec("raw"), parse_codec("half=2"))
    runs, _ = compare(trace, Comparison(policies=("lru",), capacities=(0.5,), codecs=codecs))
    assert runs[1].result.hit_blocks > runs[0].result.hit_blocks


def test_the_verb_prints_each_policy_as_json(tmp_path):
    from stepwell.cli.simulate import app

    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 1000 * i, "input_length": 1024, "output_length": 5,
         "hash_ids": [i % 3, 9 + i % 3]}
        for i in range(30)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policies = "lru,s3fifo,value,belady"
    done = CliRunner().invoke(app, [str(path), "--capacity", "1.0", "--policy", policies, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert [run["policy"] for run in document["runs"]] == policies.split(",")
    assert all(run["block_hit_rate"] == 0.9 for run in document["runs"])
    assert all(run["saved_prefill_seconds"] > 0 for run in document["runs"])
