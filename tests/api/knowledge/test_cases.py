"""Releases: plans by digest, golden cases with and without the model, waivers, erasing."""

from __future__ import annotations

from tests.api.knowledge.conftest import ASK, GOTCHA, HTTP, METRIC


def confirmed(shop, entry, **fields):
    name = shop.app.propose(entry)
    shop.ann.post(f"candidates/{name}/confirm", fields)
    return name


def test_a_plan_is_released_by_its_digest_or_not_at_all(shop):
    name = confirmed(shop, GOTCHA)
    plan = shop.eve.get("releases/plan")
    assert plan["added"] == [name] and f'+id: "{name}"' in plan["diff"]
    confirmed(shop, METRIC)
    old = {"digest": plan["digest"]}
    assert shop.eve.refused("POST", "releases", old) == (409, "plan_changed")
    new = {"digest": shop.eve.get("releases/plan")["digest"]}
    assert shop.eve.post("releases", new)["name"] == "r0001"
    assert shop.ann.get("releases/r0001/diff")["against"] == ""
    gone = shop.eve.post("releases", {"retire": [name]})["name"]
    assert f'-id: "{name}"' in shop.ann.get(f"releases/{gone}/diff?against=r0001")["diff"]


def test_a_case_that_would_break_blocks_unless_it_is_waived(shop):
    name = confirmed(shop, GOTCHA)
    shop.eve.post("releases")
    case = shop.eve.post("cases", {"question": ASK, "expect": [name]}, status=201)["id"]
    assert shop.ann.get("cases")["data"][0]["by"] == "eve"
    plan = shop.eve.get(f"releases/plan?retire={name}")
    wanted = {"retire": [name], "digest": plan["digest"]}
    assert shop.eve.refused("POST", "releases", wanted) == (409, "release_blocked")
    waive = [{"case": case, "reason": "the column is gone"}]
    assert shop.eve.refused("POST", "releases", {"retire": [name], "waive": waive})[0] == 400
    assert shop.eve.post("releases", wanted | {"waive": waive})["name"] == "r0002"
    assert shop.eve.post("cases", {"id": case, "remove": True})["removed"]


def test_a_case_may_be_the_first_thing_that_a_tenant_has(shop):
    case = {"id": "first", "question": ASK, "forbid": ["x"]}
    assert shop.eve.post("cases", case, status=201)["by"] == "eve"
    assert [row["id"] for row in shop.ann.get("cases")["data"]] == ["first"]


def test_the_served_model_reads_where_a_case_asks_for_an_answer(shop):
    name = confirmed(shop, GOTCHA)
    for expect in (["abc"], ["never said"]):
        case = {"question": ASK, "expect": expect, "reads": "answer", "id": expect[0][:3]}
        shop.eve.post("cases", case, status=201)
    shop.eve.post("releases")
    asked = shop.running.engine.submitted
    assert len(asked) == 4 and all(request.priority > 1000 for request in asked)
    assert {request.tenant for request in asked}.isdisjoint({"shop"})
    assert not any(request.store for request in asked)
    texts = [shop.running.engine.tokenizer.decode(r.prompt_token_ids) for r in asked]
    assert sum(name in text for text in texts) == 2


def test_erasing_reaches_cases_and_conversations_and_can_be_asked_again(shop):
    name = confirmed(shop, GOTCHA)
    shop.eve.post("releases")
    shop.eve.post("cases", {"question": ASK, "expect": ["stale; use state"]}, status=201)
    reply = shop.ann.chat(session="s")["id"]
    for _ in range(2):
        assert shop.eve.post("erase", {"id": name})["derived"] == []
    assert shop.ann.get("cases")["data"] == []
    verdict = {"response_id": reply, "verdict": "rejected"}
    assert shop.ann.post("feedback", verdict)["outcome"] == "noted"
    assert shop.ann.chat(session="s")["knowledge"]["entries"] == []


def test_export_is_what_is_released_and_its_pairs(shop):
    sql = {"question": "turnover?", "sql": "SELECT sum(total) FROM orders"}
    name = confirmed(shop, {"kind": "template", "payload": sql, "area": "shop"})
    confirmed(shop, GOTCHA)
    shop.eve.post("releases")
    reply = shop.eve.call("GET", "export")
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = [__import__("json").loads(line) for line in reply.text.splitlines()]
    assert len(lines) == 3 and lines[-1] == {"pair": sql | {"area": "shop"}}
    assert name in {line["entry"]["id"] for line in lines[:2]}


def test_drift_takes_out_what_depends_on_the_schema_until_it_is_revalidated(shop):
    shop.eve.post("schema", {"hashes": {"orders": "1"}})
    name = confirmed(shop, GOTCHA | {"depends_on": ["orders"]})
    seen = shop.eve.post("schema", {"hashes": {"orders": "2"}, "preview": True})
    assert seen["became"] == [name] and shop.ann.get("schema")["unusable"] == []
    done = shop.eve.post("schema", {"hashes": {"Orders": "2", "cities": "1"}})
    assert done == {
        "unusable": [name], "became": [name], "new": ["cities"], "changed": ["orders"],
        "gone": [], "preview": False,
    }  # fmt: skip
    assert shop.ann.get("schema") == {
        "hashes": {"orders": "2", "cities": "1"}, "unusable": [name]
    }  # fmt: skip
    assert shop.ann.chat()["knowledge"]["entries"] == []
    shop.ann.post(f"entries/{name}/revalidate")
    assert [e["id"] for e in shop.ann.chat()["knowledge"]["entries"]] == [name]


def test_the_schema_may_be_told_by_its_ddl(shop):
    ddl = "CREATE TABLE orders (id INT, status TEXT)"
    shop.eve.post("schema", {"ddl": ddl})
    name = confirmed(shop, GOTCHA | {"depends_on": ["orders.status"]})
    other = "create table ORDERS (id int, status text, /* new */ state text)"
    assert shop.eve.post("schema", {"ddl": other})["changed"] == ["orders"]
    gone = shop.eve.post("schema", {"ddl": "CREATE TABLE orders (id INT)"})
    assert gone["became"] == [name] and gone["gone"] == ["orders.state", "orders.status"]
    for body, says in (
        ({}, "one of hashes and ddl"),
        ({"ddl": ddl, "hashes": {}}, "one of hashes and ddl"),
        ({"ddl": ddl, "dialect": "none"}, "postgres"),
        ({"ddl": "PRAGMA foreign_keys=ON"}, "no CREATE TABLE"),
        ({"hashes": {"orders": 1}}, "not of texts"),
    ):
        reply = shop.eve.call("POST", "schema", body)
        assert reply.status_code == 400 and says in reply.json()["error"]["message"]
    reply = HTTP.post(
        f"{shop.running.root}/v1/knowledge/schema",
        content=b'{"hashes": {"orders": "\\ud800"}}',
        headers={"authorization": "Bearer k-eve"},
    )
    assert reply.status_code == 400 and "surrogate" in reply.json()["error"]["message"]


def test_contradictions_are_shown_on_both_sides_with_a_diff(shop):
    confirmed(shop, GOTCHA)
    other = {"kind": "gotcha", "payload": {"about": "orders.status", "rule": "it is right"}}
    second = shop.app.propose(other)
    (row,) = shop.ann.get("candidates")["data"]
    assert row["entry"]["id"] == second and row["times"] == 1
    (against,) = row["contradicts"]
    assert "-| caution orders.status: stale; use state" in against["diff"]
    assert "+| caution orders.status: it is right" in against["diff"]
