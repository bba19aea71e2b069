"""What a request asks for is what it gets."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.errors import (  # noqa: E402
    ContextLengthExceeded,
    InvalidParameter,
)
from stepwell.base.request import FinishReason  # noqa: E402
from stepwell.base.sampling import SamplingParams  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402

PROMPT = list(range(300, 340))


def greedy(**settings: object) -> SamplingParams:
    return SamplingParams(**({"temperature": 0.0, "max_tokens": 8, "ignore_eos": True} | settings))


def test_length_and_usage(llm: LLM) -> None:
    (done,) = llm.generate([PROMPT], greedy(max_tokens=5))

    assert done.finish_reason is FinishReason.LENGTH
    assert len(done.token_ids) == 5
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (len(PROMPT), 5)


def test_text_is_the_decoded_tokens(llm: LLM) -> None:
    prompts = ["def add(a, b):", "naïve café ☃ 日本語", " leading space"]
    for done in llm.generate(prompts, greedy(max_tokens=40)):
        prompt = llm.built.loaded.tokenizer.encode(prompts[done.prompt_index])
        whole = llm.built.loaded.tokenizer.decode(prompt + done.token_ids)
        assert whole.endswith(done.text)
        assert whole == llm.built.loaded.tokenizer.decode(prompt) + done.text


def test_stop_token_ends_without_its_text(llm: LLM) -> None:
    (free,) = llm.generate([PROMPT], greedy())
    token = free.token_ids[3]
    first = free.token_ids.index(token)
    (done,) = llm.generate([PROMPT], greedy(stop_token_ids=(token,)))

    assert done.finish_reason is FinishReason.STOP
    assert done.token_ids == free.token_ids[: first + 1]
    assert free.text.startswith(done.text)


def test_stop_string_cuts_the_text(llm: LLM) -> None:
    (free,) = llm.generate([PROMPT], greedy(max_tokens=30))
    stop = free.text[len(free.text) // 2 :][:5]
    at = free.text.index(stop)
    (done,) = llm.generate([PROMPT], greedy(max_tokens=30, stop=(stop,)))
    (kept,) = llm.generate([PROMPT], greedy(max_tokens=30, stop=(stop,), include_stop=True))

    assert done.finish_reason is FinishReason.STOP
    assert done.text == free.text[:at]
    assert kept.text == free.text[: at + len(stop)]


def test_seed_repeats_whatever_else_is_in_the_batch(llm: LLM) -> None:
    settings = SamplingParams(max_tokens=12, temperature=1.0, seed=11, ignore_eos=True)
    (alone,) = llm.generate([PROMPT], settings)
    other = SamplingParams(max_tokens=12, temperature=1.3, ignore_eos=True)
    together = llm.generate([PROMPT[5:], PROMPT, PROMPT], [other, settings, other])

    assert together[1].token_ids == alone.token_ids


def test_choices_differ_and_share_the_prompt(llm: LLM) -> None:
    llm.built.engine.clear_cache()
    before = llm.stats.prefix_hits
    done = llm.generate([PROMPT], SamplingParams(max_tokens=8, n=4, seed=1, ignore_eos=True))

    assert len({tuple(c.token_ids) for c in done}) > 1
    assert [c.index for c in done] == [0, 1, 2, 3]
    assert llm.stats.prefix_hits - before == 3 * 32


def test_top_k_one_is_greedy(llm: LLM) -> None:
    (expected,) = llm.generate([PROMPT], greedy())
    for settings in ({"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}):
        params = SamplingParams(max_tokens=8, temperature=1.0, ignore_eos=True, **settings)
        (done,) = llm.generate([PROMPT], params)
        assert done.token_ids == expected.token_ids, settings


def test_logit_bias_forces_and_forbids(llm: LLM) -> None:
    (free,) = llm.generate([PROMPT], greedy(max_tokens=1))
    (forced,) = llm.generate([PROMPT], greedy(max_tokens=2, logit_bias={77: 100.0}))
    (without,) = llm.generate([PROMPT], greedy(max_tokens=1, logit_bias={free.token_ids[0]: -100}))

    assert forced.token_ids == [77, 77]
    assert without.token_ids != free.token_ids


def test_penalties_stop_repetition(llm: LLM) -> None:
    bias = {77: 20.0}
    (repeats,) = llm.generate([PROMPT], greedy(logit_bias=bias))
    (presence,) = llm.generate([PROMPT], greedy(logit_bias=bias, repetition_penalty=50.0))
    (frequency,) = llm.generate(
        [PROMPT], greedy(logit_bias=bias, frequency_penalty=2.0, max_tokens=60)
    )

    assert set(repeats.token_ids) == {77}
    assert len(set(presence.token_ids)) > 1
    assert len(set(frequency.token_ids)) > 1


def test_min_tokens_holds_off_the_end(llm: LLM) -> None:
    (free,) = llm.generate([PROMPT], greedy())
    stop = (free.token_ids[0],)
    (short,) = llm.generate([PROMPT], greedy(stop_token_ids=stop))
    (held,) = llm.generate([PROMPT], greedy(stop_token_ids=stop, min_tokens=4))

    assert len(short.token_ids) == 1
    assert len(held.token_ids) >= 4


def test_logprobs_are_the_models_own(llm: LLM) -> None:
    (done,) = llm.generate([PROMPT], greedy(max_tokens=3, logprobs=4, prompt_logprobs=2))
    model = llm.built.loaded.model
    tokens = torch.tensor([PROMPT + done.token_ids])
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        table = model(tokens).logits[0].log_softmax(-1)
    model.set_attn_implementation("stepwell")

    for at, entry in enumerate(done.logprobs):
        row = table[len(PROMPT) - 1 + at]
        assert entry.token_id == done.token_ids[at]
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert entry.rank == 1
        assert [t for t, _ in entry.top] == row.topk(4).indices.tolist()
    assert done.prompt_logprobs[0] is None
    assert len(done.prompt_logprobs) == len(PROMPT)
    for at, entry in enumerate(done.prompt_logprobs[1:], start=1):
        assert entry.token_id == PROMPT[at]
        assert entry.logprob == pytest.approx(float(table[at - 1][PROMPT[at]]), abs=1e-4)


def test_prompt_logprobs_ignore_the_prefix_cache_and_chunks(make_llm) -> None:
    llm = make_llm(scheduler__max_step_tokens=16)
    (first,) = llm.generate([PROMPT], greedy(max_tokens=0, prompt_logprobs=0))
    (again,) = llm.generate([PROMPT], greedy(max_tokens=0, prompt_logprobs=0))

    assert first.finish_reason is FinishReason.LENGTH
    assert first.token_ids == []
    assert again.usage.cached_tokens == 0
    values = [e.logprob for e in first.prompt_logprobs[1:]]
    assert [e.logprob for e in again.prompt_logprobs[1:]] == pytest.approx(values, abs=1e-5)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_json_schema_is_obeyed(llm: LLM) -> None:
    settings = SamplingParams(
        max_tokens=200, temperature=1.0, seed=4, json_schema=json.dumps(SCHEMA), n=2,
        logit_bias={},
    )  # fmt: skip
    for done in llm.generate(["Describe a person as JSON: "], settings):
        if done.finish_reason is FinishReason.STOP:
            value = json.loads(done.text)
            assert set(value) == {"name", "age"}
            assert isinstance(value["age"], int)
        else:  # a random model may count for ever; what is there must still be a beginning
            assert done.text.lstrip().startswith("{")


@pytest.mark.parametrize(
    ("tokens", "settings", "error"),
    [
        ([], {}, InvalidParameter),
        ([5000], {}, InvalidParameter),
        ([1] * 600, {}, ContextLengthExceeded),
        ([1] * 500, {"max_tokens": 100}, ContextLengthExceeded),
        ([1], {"logit_bias": {9999: 1.0}}, InvalidParameter),
        ([1], {"json_schema": "{"}, InvalidParameter),
        ([1], {"json_schema": '{"type": "no-such-type"}'}, InvalidParameter),
    ],
)
def test_the_door_refuses(llm: LLM, tokens: list[int], settings: dict, error: type) -> None:
    with pytest.raises(error):
        llm.generate([tokens], greedy(**settings))

    assert not llm.built.engine.has_work
    assert llm.stats.blocks_used == 0
