"""Several steps of decoding in one go give what one at a time gives."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.config import load_config  # noqa: E402
from stepwell.base.request import FinishReason, GenerationRequest  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.ahead import Ahead  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.engine.loop import build_engine_loop  # noqa: E402
from stepwell.engine.runner import ModelRunner  # noqa: E402
from stepwell.kernels.linear import WeightFormat, refusal  # noqa: E402

_reason = refusal(torch.zeros(16, 16, dtype=torch.bfloat16), format=WeightFormat.INT8)
needs_panels = pytest.mark.skipif(_reason is not None, reason=str(_reason))
GREEDY = SamplingParams(max_tokens=50, temperature=0, ignore_eos=True)


def prompts(count: int = 5) -> list[list[int]]:
    draw = random.Random(4)
    return [[draw.randrange(5, 4000) for _ in range(draw.randrange(1, 60))] for _ in range(count)]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of two layers that compiled code can run."""
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("ahead")
    shutil.copytree(tiny_checkpoint, folder, dirs_exist_ok=True)
    torch.manual_seed(3)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=4096, max_position_embeddings=512,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    return folder


class Spied:
    """An engine, and how many steps each pass of decoding took."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.steps: list[int] = []
        self.llm = LLM(str(folder), cache__pool="8MiB", **settings)
        runner = self.llm.built.engine._runner
        plain = runner.decode

        def decode(plan, cache, *, steps=1):
            self.steps.append(steps)
            return plain(plan, cache, steps=steps)

        runner.decode = decode

    def tokens(self, sampling: SamplingParams = GREEDY, count: int = 5) -> list[tuple[int, ...]]:
        self.steps.clear()
        outputs = self.llm.generate(prompts(count), sampling)
        self.llm.built.engine.check()
        return [tuple(output.token_ids) for output in outputs]


@needs_panels
@pytest.mark.parametrize(
    ("weights", "kv"),
    [("checkpoint", "model"), ("checkpoint", "int8"), ("lossless", "model"), ("int8", "int8"),
     ("int4", "model")],
)  # fmt: skip
def test_the_same_tokens(monkeypatch, checkpoint, weights, kv):
    settings = {"model__weights": weights, "model__kv": kv}
    one = Spied(checkpoint, scheduler__ahead_ms=0, **settings)
    wanted = one.tokens()
    assert set(one.steps) == {1}
    many = Spied(checkpoint, scheduler__ahead_ms=1000, **settings)
    assert many.tokens() == wanted
    assert max(many.steps) == 8
    assert sum(many.steps) == sum(one.steps)  # nothing was computed for nothing
    monkeypatch.setattr(ModelRunner, "can_decode", lambda *_: False)
    assert many.tokens() == wanted and not many.steps


@needs_panels
@pytest.mark.parametrize("weights", ["checkpoint", "int8"])
def test_a_run_that_is_asked_to_end_goes_on_where_it_ended(checkpoint, weights):
    """Of every second run only the first step counts; no token is lost, none comes twice."""
    one = Spied(checkpoint, scheduler__ahead_ms=0, model__weights=weights)
    many = Spied(checkpoint, scheduler__ahead_ms=1000, model__weights=weights)
    wanted = one.tokens()
    assert many.tokens() == wanted  # learns what a step costs
    engine = many.llm.built.engine
    spied, done = engine._runner.decode, []

    def decode(plan, cache, *, steps=1):
        (engine.end_early if len(done) % 2 else engine.go_on)()
        tokens, logits = spied(plan, cache, steps=steps)
        done.append((steps, len(tokens)))
        return tokens, logits

    engine._runner.decode = decode
    assert many.tokens() == wanted
    assert {ran for asked, ran in done[1::2] if asked > 1} == {1}
    assert all(ran == asked for asked, ran in done[0::2]) and (8, 8) in done


@needs_panels
def test_what_is_asked_of_a_running_engine_ends_the_run(checkpoint):
    """As an arriving request does: the engine looks into its inbox after the present step."""
    loop = build_engine_loop(
        load_config(overrides={"model.path": str(checkpoint), "cache.pool": "8MiB",
                               "scheduler.ahead_ms": 1000})
    )  # fmt: skip
    runner = loop._engine._runner
    spied, done, ended = runner.decode, [], threading.Event()

    def decode(plan, cache, *, steps=1):
        if steps > 1 and not done:
            loop.abort("somebody else")  # comes while the run is on its way
        tokens, logits = spied(plan, cache, steps=steps)
        if steps > 1:
            done.append((steps, len(tokens)))
        return tokens, logits

    runner.decode = decode
    found = []
    try:
        loop.start(lambda deltas: (found.extend(deltas), deltas[-1].finish_reason and ended.set()))
        loop.submit(
            GenerationRequest(
                request_id="r", prompt_token_ids=(5, 6, 7), sampling=GREEDY, arrival=0.0
            )
        )
        assert ended.wait(60)
    finally:
        loop.stop(grace=0)
    assert done[0][1] == 1 < done[0][0]
    assert len(done) > 1 and all(ran == asked for asked, ran in done[1:])
    assert sum(len(delta.token_ids) for delta in found) == GREEDY.max_tokens


@needs_panels
def test_lossless_weights_give_the_tokens_of_the_checkpoint(checkpoint):
    plain, lossless = Spied(checkpoint), Spied(checkpoint, model__weights="lossless")
    values = {d.name: d.value for d in lossless.llm.built.decisions}
    assert values["kernels.linear"] == "lossless"
    assert lossless.tokens() == plain.tokens()


@needs_panels
def test_what_ends_early_ends_where_it_ends(checkpoint):
    """Stop tokens and stop strings in the middle of a run; the others go on."""
    one = Spied(checkpoint, scheduler__ahead_ms=0)
    plain = one.tokens()
    stops = tuple({tokens[k] for tokens, k in zip(plain, (3, 11, 19), strict=False)})
    for sampling in (
        SamplingParams(max_tokens=50, temperature=0, stop_token_ids=stops),
        SamplingParams(max_tokens=50, temperature=0, stop=("e", "a")),
        SamplingParams(max_tokens=7, temperature=0, ignore_eos=True, n=2),
    ):
        wanted = one.tokens(sampling)
        many = Spied(checkpoint, scheduler__ahead_ms=1000)
        assert many.tokens(GREEDY) == plain  # learns what a step costs
        assert many.tokens(sampling) == wanted
        assert many.tokens(GREEDY) == plain  # and nothing of it was kept as a prefix


@needs_panels
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(max_tokens=20, temperature=1.0, seed=7),
        SamplingParams(max_tokens=20, temperature=0, logprobs=2),
        SamplingParams(max_tokens=20, temperature=0, repetition_penalty=1.3),
    ],
    ids=["drawn", "logprobs", "penalty"],
)
def test_whoever_needs_logits_goes_one_by_one(monkeypatch, checkpoint, sampling):
    many = Spied(checkpoint, scheduler__ahead_ms=1000)
    found = many.tokens(sampling)
    assert set(many.steps) == {1}
    monkeypatch.setattr(ModelRunner, "can_decode", lambda *_: False)
    assert many.tokens(sampling) == found


@needs_panels
def test_no_steps_beyond_the_pool(checkpoint):
    """Room for what runs, not for running ahead: nothing is preempted for it."""
    many = Spied(checkpoint, scheduler__ahead_ms=1000)
    request = GenerationRequest(
        request_id="r", prompt_token_ids=tuple(range(5, 20)), sampling=GREEDY, arrival=0.0
    )
    engine = many.llm.built.engine
    engine.add(request)
    for _ in range(4):
        engine.step()
    pool = engine._cache.pool
    taken = pool.allocate(pool.num_available)  # all blocks but the sequence's own
    engine._cache.hold(taken)
    pool.release(taken)
    sequence = engine._scheduler.running[0]
    have = len(engine._cache.blocks_of(sequence.sequence_id)) * engine._cache.block_size
    deltas = []
    while engine._scheduler.running:
        deltas += engine.step()
    assert len(sequence.token_ids) == have + 1  # its blocks are full: only then it gives way
    assert engine.stats().preemptions == 1
    engine._cache.let_go(taken)
    while engine.has_work:
        deltas += engine.step()
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    engine.check()


def test_nobody_waits_longer_than_said():
    def item(left: int, **sampling: Any) -> Any:
        chosen = SamplingParams(max_tokens=99, **({"temperature": 0} | sampling))
        sequence = SimpleNamespace(
            sampling=chosen, first_token_at=1.0, restore=None, max_output=left, output_length=0
        )
        return SimpleNamespace(sequence=sequence)

    ahead = Ahead(seconds=0.05, most=8)
    assert ahead.steps_for([item(9)]) == 1  # nothing known yet
    ahead.observe(sequences=1, steps=2, seconds=0.02)
    assert ahead.steps_for([item(9)]) == 5
    assert ahead.steps_for([item(3)]) == 3
    assert ahead.steps_for([item(9, temperature=0.5)]) == 1
    assert ahead.steps_for([item(9), item(9)]) == 1
    ahead.observe(sequences=1, steps=1, seconds=0.02)  # a slow one counts a little
    assert ahead.steps_for([item(9)]) == 4
    ahead.observe(sequences=1, steps=1, seconds=0.01)  # a fast one at once: what came first may
    assert ahead.steps_for([item(9)]) == 5  # have compiled something
    ahead.observe(sequences=2, steps=1, seconds=0.2)
    assert ahead.steps_for([item(9), item(9)]) == 1
