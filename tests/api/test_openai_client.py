"""The real openai client against a server over the fake engine: shapes, choices, streams."""

from __future__ import annotations

import openai
import pytest

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def client(serve):
    return serve().openai()


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").id == "fake"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_chat(client):
    reply = client.chat.completions.create(**CHAT, max_tokens=5)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.content == "abcde"
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 5
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    assert reply._request_id == reply.id


def test_chat_default_length_is_the_context(client):
    reply = client.chat.completions.create(**CHAT)
    assert reply.usage.total_tokens == 512


def test_cached_tokens_of_the_second_request(client):
    prompt = "x" * 100
    client.completions.create(model="fake", prompt=prompt)
    again = client.completions.create(model="fake", prompt=prompt)
    assert again.usage.prompt_tokens_details.cached_tokens == 96


def test_stop(client):
    reply = client.chat.completions.create(**CHAT, stop=["d"], max_tokens=20)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("abc", "stop")
    assert reply.choices[0].stop_reason == "d"


def test_chat_logprobs(client):
    reply = client.chat.completions.create(**CHAT, max_tokens=2, logprobs=True, top_logprobs=2)
    content = reply.choices[0].logprobs.content
    assert [item.token for item in content] == ["a", "b"]
    assert [top.token for top in content[0].top_logprobs] == ["a", "b"]
    assert content[0].bytes == [97]


def test_chat_stream_with_usage(client):
    stream = client.chat.completions.create(
        **CHAT, max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == "abcdef"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 6
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_of_several_choices(client):
    stream = client.completions.create(
        model="fake", prompt=["p", "q"], n=2, max_tokens=4, stream=True
    )
    texts: dict[int, str] = {}
    reasons: dict[int, list[str]] = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                reasons.setdefault(choice.index, []).append(choice.finish_reason)
    assert texts == dict.fromkeys(range(4), "abcd")
    assert reasons == {index: ["length"] for index in range(4)}


def test_usage_in_every_chunk(client):
    stream = client.completions.create(
        model="fake",
        prompt="p",
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    )
    counts = [chunk.usage.completion_tokens for chunk in stream]
    assert counts == sorted(counts) and counts[-1] == 4


@pytest.mark.parametrize("prompt", ["hello", ["hello"], [10, 11, 12], [[10, 11, 12]]])
def test_prompt_forms(client, prompt):
    reply = client.completions.create(model="fake", prompt=prompt, max_tokens=3)
    assert [choice.text for choice in reply.choices] == ["abc"]


def test_several_prompts_and_choices_are_numbered(client):
    reply = client.completions.create(model="fake", prompt=["a", "bb", "ccc"], n=2, max_tokens=2)
    assert [choice.index for choice in reply.choices] == list(range(6))
    assert reply.usage.prompt_tokens == 2 + 3 + 4
    assert reply.usage.completion_tokens == 12


def test_completions_default_to_16_tokens(client):
    assert client.completions.create(model="fake", prompt="a").usage.completion_tokens == 16


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs_as_lm_eval_sends_it(client, max_tokens):
    prompt = [[20, 21, 22], [30, 31]]
    reply = client.completions.create(
        model="fake",
        prompt=prompt,
        echo=True,
        max_tokens=max_tokens,
        logprobs=1,
        temperature=0,
        seed=1234,
    )
    for choice, ids in zip(reply.choices, prompt, strict=True):
        logprobs = choice.logprobs
        assert len(logprobs.tokens) == len(ids) + max_tokens
        assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
        for value, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:], strict=True):
            assert value == max(top.values())
        assert logprobs.text_offset == list(range(len(logprobs.tokens)))
        assert choice.text == "".join(logprobs.tokens)


def test_text_offsets_count_characters_not_tokens(client):
    reply = client.completions.create(
        model="fake", prompt="héy", echo=True, max_tokens=1, logprobs=0
    )
    choice = reply.choices[0]
    assert choice.text == "héya"
    assert choice.logprobs.tokens[2:4] == ["bytes:\\xc3", "bytes:\\xa9"]
    # <bos> h \xc3 \xa9 y a
    assert choice.logprobs.text_offset == [0, 0, 1, 1, 2, 3]


def test_echo_streamed(client):
    stream = client.completions.create(
        model="fake", prompt="xy", echo=True, max_tokens=2, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == "xyab"


def test_prompt_logprobs(client):
    reply = client.completions.create(
        model="fake", prompt=[20, 21], max_tokens=1, extra_body={"prompt_logprobs": 1}
    )
    first, second = reply.choices[0].prompt_logprobs
    assert first is None and second["21"]["rank"] == 1


def test_token_ids(client):
    reply = client.completions.create(
        model="fake", prompt=[20, 21], max_tokens=2, extra_body={"return_token_ids": True}
    )
    assert reply.choices[0].prompt_token_ids == [20, 21]
    assert reply.choices[0].token_ids == [99, 100]


def test_sampling_parameters_reach_the_engine(serve):
    running = serve()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    running.openai().chat.completions.create(
        **CHAT,
        max_completion_tokens=3,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"5": -3},
        seed=7,
        stop="zz",
        n=2,
        user="me",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        extra_body={
            "top_k": 4,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "min_tokens": 1,
            "ignore_eos": True,
            "stop_token_ids": [9],
            "priority": -2,
        },
    )
    request = running.engine.submitted[0]
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (3, 0.5, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (4, 0.05, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, 0.2)
    assert (dict(sampling.logit_bias), sampling.seed, sampling.n) == ({5: -3.0}, 7, 2)
    assert (sampling.stop, sampling.stop_token_ids, sampling.ignore_eos) == (("zz",), (9,), True)
    assert sampling.min_tokens == 1 and request.priority == -2
    assert '"integer"' in sampling.json_schema


def test_text_parts_are_joined(serve):
    running = serve()
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]
    running.openai().chat.completions.create(
        model="fake", messages=[{"role": "developer", "content": parts}], max_tokens=1
    )
    text = running.engine.tokenizer.decode(running.engine.submitted[0].prompt_token_ids)
    assert text == "system: abcd\n"


def test_large_prompts_are_tokenized_on_a_thread(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="fake", prompt="x" * 20000)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("body", [CHAT, {"prompt": "hi"}])
def test_sagemaker_takes_either_body(serve, body):
    running = serve()
    reply = running.post("/invocations", body | {"max_tokens": 2})
    assert reply.status_code == 200
    choice = reply.json()["choices"][0]
    assert choice.get("text") == "ab" or choice["message"]["content"] == "ab"
    assert running.get("/ping").status_code == 200
