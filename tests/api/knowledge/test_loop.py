"""The whole loop over HTTP: propose, confirm, the next request has it, release, rollback, erase."""

from __future__ import annotations

from tests.api.knowledge.conftest import ASK, GOTCHA, METRIC


def ids(reply):
    return [entry["id"] for entry in reply["knowledge"]["entries"]]


def test_what_one_key_proposes_another_confirms_and_a_third_releases(shop):
    name = shop.app.propose()
    assert name not in ids(shop.ann.chat())
    assert shop.ann.post(f"candidates/{name}/confirm")["status"] == "confirmed"
    assert name in ids(shop.ann.chat())
    assert "user: Reference about the data." in shop.prompt()
    assert shop.prompt().endswith(f"| caution orders.status: stale; use state\n\n{ASK}\n")
    assert name not in ids(shop.bob.chat())
    first = shop.eve.post("releases")["name"]
    assert name in ids(shop.bob.chat()) and name in ids(shop.read.chat())
    metric = shop.app.propose(METRIC)
    shop.bob.post(f"candidates/{metric}/confirm")
    second = shop.eve.post("releases")["name"]
    assert ids(shop.read.chat()) == [metric, name]
    assert [made["name"] for made in shop.ann.get("releases")["releases"]] == [first, second]
    shop.eve.post("releases/rollback", {"to": first})
    assert ids(shop.read.chat()) == [name]
    shop.eve.post("releases/rollback", {"to": second})
    assert shop.eve.post("erase", {"id": name, "history": "erase"})["derived"] == []
    assert ids(shop.read.chat()) == [metric]
    assert shop.app.refused("POST", "entries", GOTCHA) == (410, "entry_erased")


def test_a_reply_without_the_field_is_as_ever(shop):
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    headers = {"authorization": "Bearer k-ann"}
    reply = shop.running.post("/v1/chat/completions", body, headers=headers).json()
    assert "knowledge" not in reply
    assert shop.prompt() == "user: hi\n"
    body["knowledge"] = {"mode": "off"}
    assert (
        "knowledge" not in shop.running.post("/v1/chat/completions", body, headers=headers).json()
    )
