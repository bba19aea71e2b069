"""What requests are given and what their replies say of it; feedback on them; metrics."""

from __future__ import annotations

import json
import re

import pytest

from tests.api.knowledge.conftest import ASK, GOTCHA, METRIC


def released(shop, *entries):
    names = [shop.app.propose(entry) for entry in entries]
    for name in names:
        shop.ann.post(f"candidates/{name}/confirm")
    shop.eve.post("releases")
    return names


def messages(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_the_openai_client_takes_it_as_an_extra_field_and_gets_one_back(shop):
    (name,) = released(shop, GOTCHA)
    client = shop.running.openai("k-read")
    ask = {"model": "fake", "messages": messages(ASK), "max_tokens": 3}
    plain = client.chat.completions.create(**ask)
    assert "knowledge" not in plain.model_extra
    given = client.chat.completions.create(**ask, extra_body={"knowledge": {"explain": True}})
    said = given.model_extra["knowledge"]
    assert said["release"] == "r0001" and said["mode"] == "on"
    assert said["entries"] == [{"id": name, "kind": "gotcha", "pattern": "gotcha"}]
    assert 0 < said["context_tokens"] < given.usage.prompt_tokens
    assert said["cached_tokens"] == given.usage.prompt_tokens_details.cached_tokens
    assert said["why"] == [{"id": name, "part": "chosen", "pattern": "gotcha", "selected": True}]


def test_without_the_field_requests_and_replies_are_the_same_bytes_as_without_a_base(shop, serve):
    released(shop, GOTCHA)
    bare = serve(api_keys=["shop:k-read"])
    headers = {"authorization": "Bearer k-read"}
    for path, body in (
        ("/v1/chat/completions", {"messages": messages(ASK)}),
        ("/v1/completions", {"prompt": ASK}),
    ):
        for stream in (False, True):
            body |= {"max_tokens": 1, "stream": stream}  # one token: nothing to merge into a chunk
            ours, theirs = (
                re.sub(rb'cmpl-\w+|"created":\d+', b"", reply.content)
                for run in (shop.running, bare)
                for reply in [run.post(path, body, headers=headers)]
            )
            assert ours == theirs
    assert [r.prompt_token_ids for r in shop.running.engine.submitted] == [
        r.prompt_token_ids for r in bare.engine.submitted
    ]


@pytest.mark.parametrize("usage", [False, True])
def test_in_a_stream_it_comes_once_in_the_last_chunk_that_has_a_choice(shop, usage):
    (name,) = released(shop, GOTCHA)
    body = {"messages": messages(ASK), "max_tokens": 4, "n": 2, "stream": True, "knowledge": {}}
    if usage:
        body["stream_options"] = {"include_usage": True}
    headers = {"authorization": "Bearer k-read"}
    text = shop.running.post("/v1/chat/completions", body, headers=headers).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    having = [chunk for chunk in chunks if "knowledge" in chunk]
    assert having == [[chunk for chunk in chunks if chunk["choices"]][-1]]
    assert having[0]["choices"][0]["finish_reason"] == "length"
    assert having[0]["knowledge"]["entries"][0]["id"] == name


def test_a_conversation_repeats_what_it_was_given_and_finds_it_cached(shop):
    metric, gotcha = released(shop, METRIC, GOTCHA)
    first = shop.read.chat(messages("turnover?"), session="s")["knowledge"]
    assert [entry["id"] for entry in first["entries"]] == [metric]
    before = shop.prompt()
    second = shop.read.chat(messages("turnover?", "x", ASK), session="s")["knowledge"]
    assert [entry["pattern"] for entry in second["entries"]] == ["domain", "gotcha"]
    assert shop.prompt().startswith(before) and shop.prompt().count(metric) == 1
    third = shop.read.chat(messages("turnover?", "x", ASK, "y", ASK), session="s")["knowledge"]
    assert [entry["pattern"] for entry in third["entries"]] == ["domain", "session"]
    assert third["cached_tokens"] >= len(before) // 16 * 16
    assert shop.prompt().count(gotcha) == 1


def test_what_is_rejected_leaves_the_conversation_that_was_given_it(shop):
    name = shop.app.propose()
    shop.ann.post(f"candidates/{name}/confirm")
    assert shop.ann.chat(session="s")["knowledge"]["entries"]
    shop.ann.post(f"candidates/{name}/reject", {"reason": "wrong"})
    after = shop.ann.chat(messages(ASK, "x", "and now?"), session="s")["knowledge"]
    assert after["entries"] == [] and name not in shop.prompt()


def test_a_request_may_name_an_older_release(shop):
    (gotcha,) = released(shop, GOTCHA)
    (metric,) = released(shop, METRIC)
    old = shop.read.chat(release="r0001")["knowledge"]
    assert old["release"] == "r0001" and [e["id"] for e in old["entries"]] == [gotcha]
    assert metric not in shop.prompt()
    now = shop.read.chat(release="r0002")["knowledge"]
    assert [e["id"] for e in now["entries"]] == [metric, gotcha]
    shop.eve.post("erase", {"id": gotcha})
    assert shop.read.chat(release="r0001")["knowledge"]["entries"] == []
    body = {"messages": messages(ASK), "knowledge": {"release": "r0099"}}
    headers = {"authorization": "Bearer k-read"}
    reply = shop.running.post("/v1/chat/completions", body, headers=headers)
    assert reply.status_code == 404 and "r0002" in reply.text


def test_shadow_finds_and_reports_and_leaves_the_prompt(shop):
    (name,) = released(shop, GOTCHA)
    said = shop.read.chat(mode="shadow")["knowledge"]
    assert [entry["id"] for entry in said["entries"]] == [name] and said["context_tokens"] > 0
    assert shop.prompt() == f"user: {ASK}\n"


def test_a_plain_prompt_is_given_it_in_front(shop):
    released(shop, GOTCHA)
    headers = {"authorization": "Bearer k-read"}
    body = {"prompt": ASK, "max_tokens": 1, "knowledge": {}}
    assert shop.running.post("/v1/completions", body, headers=headers).status_code == 200
    assert shop.prompt().endswith(f"use state\n\n{ASK}")
    for prompt in ([1, 2], ["a", "b"]):
        reply = shop.running.post("/v1/completions", body | {"prompt": prompt}, headers=headers)
        assert reply.status_code == 400 and "one prompt" in reply.text


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ({"mode": "onn"}, "shadow"),
        ({"mod": "on"}, "mode"),
        ({"area": "A"}, "Lower-case"),
        ({"max_tokens": -1}, "0 to"),
        ({"session": "x" * 300}, "256"),
        ({"explain": 1}, "true or false"),
        ("on", "object"),
    ],
)
def test_a_wrong_field_is_named(one_shop, field, says):
    body = {"messages": messages(ASK), "knowledge": field}
    headers = {"authorization": "Bearer k-read"}
    reply = one_shop.running.post("/v1/chat/completions", body, headers=headers)
    assert reply.status_code == 400 and says in reply.text


def test_feedback_learns_by_the_id_of_the_reply(shop):
    reply = shop.app.chat("turnover by city?")["id"]
    entry = {"kind": "template", "payload": {"sql": "SELECT city, sum(total) FROM orders"}}
    ran = {"response_id": reply, "verdict": "executed", "entry": entry}
    made = shop.app.post("feedback", ran)
    assert made["outcome"] == "new"
    shown = shop.ann.get(f"entries/{made['id']}")
    assert shown["entry"]["status"] == "candidate"
    assert shown["entry"]["payload"]["question"] == "turnover by city?"
    assert shown["evidence"] == [{"what": "executed", "by": "app"}]
    assert shop.app.refused("POST", "feedback", ran | {"verdict": "confirmed"}) == (
        403,
        "forbidden_role",
    )
    again = shop.ann.post("feedback", ran | {"verdict": "confirmed"})
    assert (again["id"], again["status"]) == (made["id"], "confirmed")
    assert again["outcome"] == "merged"


def test_what_the_context_said_is_not_captured_again(shop):
    (name,) = released(shop, GOTCHA)
    reply = shop.ann.chat()["id"]
    again = {"response_id": reply, "verdict": "confirmed", "entry": GOTCHA}
    assert shop.ann.post("feedback", again)["outcome"] == "retrieved"
    assert shop.ann.get(f"entries/{name}")["entry"]["status"] == "released"


def test_the_same_failure_twice_proposes_a_rule(shop):
    outcomes = []
    for number in (1, 2):
        reply = shop.app.chat()["id"]
        failed = {"response_id": reply, "verdict": "failed", "error": f"no such column: x{number}"}
        outcomes.append(shop.app.post("feedback", failed | {"error": "no such column: 'a'"}))
    assert [made["outcome"] for made in outcomes] == ["logged", "new"]
    assert shop.ann.get(f"entries/{outcomes[1]['id']}")["entry"]["kind"] == "error_rule"


def test_entries_that_do_harm_are_named_for_whoever_releases(shop):
    (name,) = released(shop, GOTCHA)
    for client in (shop.app, shop.ann, shop.bob):
        for _ in range(3):
            reply = client.chat()["id"]
            client.post("feedback", {"response_id": reply, "verdict": "rejected"})
    (doubted,) = shop.eve.get("releases/plan")["doubted"]
    assert (doubted["id"], doubted["good"], doubted["bad"]) == (name, 0, 9)
    assert shop.ann.get(f"entries/{name}")["usefulness"] == doubted


def test_metrics(shop):
    released(shop, GOTCHA)
    shop.read.chat()
    shop.read.chat(mode="shadow")
    shop.read.refused("POST", "releases")
    shop.app.propose(METRIC)
    headers = {"authorization": "Bearer k-read"}
    page = shop.running.get("/metrics", headers=headers).text
    for line in (
        'stepwell_knowledge_requests_total{mode="on"} 1.0',
        'stepwell_knowledge_requests_total{mode="shadow"} 1.0',
        "stepwell_knowledge_entries_given_total 1.0",
        'stepwell_knowledge_releases_total{what="released"} 1.0',
        'stepwell_knowledge_failures_total{code="forbidden_role"} 1.0',
        "stepwell_knowledge_retrieval_seconds_count 2.0",
        "stepwell_knowledge_candidates_waiting 1.0",
        'stepwell_knowledge_conversations_total{course="begun"} 1.0',
    ):
        assert line in page, line
    assert "shop" not in page and "ann" not in re.findall(r"knowledge\S*", page)
