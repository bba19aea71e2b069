"""Who may do what: every path by every key, tenants apart, errors that say what is valid."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.server.auth import ANYONE, Role
from stepwell.server.knowledge.routes import ROOT, ROUTES
from stepwell.server.lifecycle import check_settings
from tests.api.knowledge.conftest import GOTCHA

HOLDERS = {
    Role.PROPOSE: "app ann bob eve",
    Role.CONFIRM: "ann bob",
    Role.RELEASE: "eve",
    Role.ERASE: "eve",
}


def test_every_path_refuses_the_keys_that_lack_its_role(shop):
    for route in ROUTES:
        check_route(shop, route)


def check_route(shop, route):
    path = route.path.replace("{id}", "gotcha-0").replace("{name}", "r0001")
    allowed = "app ann bob eve read".split()
    if route.needs.role is not None:
        allowed = HOLDERS[route.needs.role].split()
    elif route.needs.some:
        allowed.remove("read")
    for name in "app ann bob eve read".split():
        reply = getattr(shop, name).call(route.method, path, {})
        refused = reply.status_code == 403
        assert refused is (name not in allowed), (name, reply.text)
        if refused:
            error = reply.json()["error"]
            assert error["code"] == "forbidden_role" and error["type"] == "permission_error"
            assert route.needs.role is None or repr(route.needs.role.value) in error["message"]
    assert shop.running.get(f"{ROOT}/{path}").status_code in (401, 405)


def test_a_read_only_key_searches_and_is_given_what_is_released(shop):
    name = shop.app.propose()
    shop.ann.post(f"candidates/{name}/confirm")
    asked = {"text": "status of orders"}
    assert shop.read.post("search", asked) == {"entries": []}
    shop.eve.post("releases")
    (found,) = shop.read.post("search", asked)["entries"]
    assert found["id"] == name and found["pattern"] == "gotcha"
    assert found["text"] == f"[{name}]\n| caution orders.status: stale; use state\n"


def test_a_key_is_told_who_it_is_and_what_it_may_do(shop):
    mine = shop.ann.get("me")
    assert {name: mine[name] for name in ("tenant", "user", "roles", "capture", "release")} == {
        "tenant": "shop",
        "user": "ann",
        "roles": ["propose", "confirm"],
        "capture": "quarantine",
        "release": "",
    }
    for key in ("ann", "eve", "read"):
        verbs = getattr(shop, key).get("me")["verbs"]
        assert [(verb["method"], verb["path"]) for verb in verbs] == [
            (route.method, route.path) for route in ROUTES
        ]
        for verb, route in zip(verbs, ROUTES, strict=True):
            path = route.path.replace("{id}", "gotcha-0").replace("{name}", "r0001")
            reply = getattr(shop, key).call(route.method, path, {})
            assert verb["may"] is (reply.status_code != 403) is (verb["why_not"] is None)
            if not verb["may"]:
                assert verb["why_not"] == reply.json()["error"]["message"]


def test_who_is_who_comes_from_the_key_and_never_from_the_body(shop):
    for name in ("by", "user", "tenant", "source", "trust", "status"):
        assert shop.app.refused("POST", "entries", GOTCHA | {name: "ann"}) == (
            400,
            "invalid_parameter",
        )
    made = shop.ann.get(f"entries/{shop.app.propose()}")["entry"]
    assert (made["by"], made["source"], made["status"]) == ("app", "model", "candidate")


def test_no_tenant_sees_or_touches_anothers(shop):
    name = shop.app.propose()
    shop.ann.post(f"candidates/{name}/confirm")
    shop.eve.post("releases")
    reply = shop.ann.chat()
    rival = shop.rival
    assert rival.get("entries")["data"] == [] and rival.get("releases")["releases"] == []
    assert rival.post("search", {"text": "orders.status"})["entries"] == []
    assert rival.chat()["knowledge"]["entries"] == []
    for method, path, body in (
        ("GET", f"entries/{name}", None),
        ("POST", f"candidates/{name}/confirm", {}),
        ("POST", "erase", {"id": name}),
        ("GET", "releases/r0001/diff", None),
        ("POST", "releases/rollback", {"to": "r0001"}),
        ("POST", "feedback", {"response_id": reply["id"], "verdict": "rejected"}),
    ):
        assert rival.refused(method, path, body)[0] == 404, path


def test_who_confirms_alone_cannot_release(open_shop):
    shop = open_shop()
    name = shop.rival.propose()
    shop.rival.post(f"candidates/{name}/confirm")
    (behind,) = shop.rival.get("releases/plan")["behind"]
    assert behind["id"] == name and "only by who releases" in behind["why"]
    shop.rival.post("releases")
    assert shop.rival.get(f"entries/{name}")["entry"]["status"] == "confirmed"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "says"),
    [
        ("POST", "entries", {"payload": {}}, 400, "invalid_parameter", "gotcha"),
        ("POST", "entries", {"kind": "gotcha"}, 400, "invalid_parameter", "payload"),
        ("POST", "entries", {"kind": "gotcha", "payload": {"abut": "x"}}, 400, "invalid_entry",
         "about"),
        ("POST", "entries", GOTCHA | {"aera": ""}, 400, "invalid_parameter", "area"),
        ("POST", "entries", GOTCHA | {"area": "A b"}, 400, "invalid_parameter", "Lower-case"),
        ("POST", "entries", {"kind": "template", "payload": {"question": "q", "sql": "drop"}},
         400, "invalid_entry", "SELECT"),
        ("POST", "entries", {"kind": "document", "payload":
         {"title": "t", "text": "password: hunter2hunter2"}}, 422, "unsafe_entry", "secret"),
        ("POST", "search", {}, 400, "invalid_parameter", "text"),
        ("GET", "entries?limit=0", None, 400, "invalid_parameter", "200"),
        ("GET", "entries?status=gone", None, 400, "invalid_parameter", "released"),
        ("GET", "entries?nope=1", None, 400, "invalid_parameter", "nope"),
        ("GET", "entries/gotcha-1", None, 404, "entry_not_found", "entries"),
        ("GET", "nothing", None, 404, "unknown_url", "/v1/knowledge/entries"),
        ("PUT", "entries", {}, 405, "method_not_allowed", "POST"),
        ("POST", "feedback", {"response_id": "x", "verdict": "confirmed"}, 404,
         "response_not_found", "entries"),
        ("POST", "feedback", {"response_id": "x", "verdict": "good"}, 400, "invalid_parameter",
         "executed"),
    ],
)  # fmt: skip
def test_errors_say_what_is_valid(one_shop, method, path, body, status, code, says):
    reply = one_shop.ann.call(method, path, body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), reply.text
    assert says in error["message"]


def test_pages(shop):
    made = sorted(
        shop.app.propose({"kind": "gotcha", "payload": {"about": f"t{n}.c", "rule": f"rule {n}"}})
        for n in range(5)
    )
    first = shop.ann.get("entries?limit=2")
    second = shop.ann.get(f"entries?limit=2&after={first['next']}")
    third = shop.ann.get(f"entries?limit=2&after={second['next']}")
    pages = [row["id"] for one in (first, second, third) for row in one["data"]]
    assert pages == made and third["next"] is None
    assert shop.ann.get("candidates?limit=2")["waiting"] == 5
    assert len(shop.ann.get("entries?kind=gotcha&status=candidate")["data"]) == 5


def test_a_body_here_is_smaller_than_elsewhere(shop):
    big = {"kind": "document", "payload": {"title": "t", "text": "x" * (1 << 20)}}
    assert shop.app.refused("POST", "entries", big) == (413, "body_too_large")


def test_without_a_folder_everything_says_how_to_turn_it_on(serve):
    running = serve()
    for reply in (
        running.get("/v1/knowledge/entries"),
        running.get("/knowledge"),
        running.post("/v1/completions", {"prompt": "a", "knowledge": {}}),
    ):
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert error["code"] == "knowledge_off" and "knowledge.folder" in error["message"]
    body = {"prompt": "a", "max_tokens": 1, "knowledge": {"mode": "off"}}
    assert running.post("/v1/completions", body).status_code == 200


def test_capture_is_off_unless_asked_for(open_shop):
    shop = open_shop(capture="off")
    reply = shop.app.call("POST", "entries", GOTCHA)
    assert reply.status_code == 409 and "knowledge.capture" in reply.text


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("shop:k-secret roles=propose,conform", "propose, confirm, release, erase"),
        ("shop:k-secret roles=", "propose, confirm, release, erase"),
        ("shop:k-secret user=", "user"),
        ("shop:k-secret rolls=propose", "roles="),
        ("shop:k-secret user=a user=b", "once"),
    ],
)
def test_keys_that_cannot_be_read_are_refused_at_the_start(entry, says):
    with pytest.raises(ConfigError) as caught:
        check_settings(load_config(None, {"server.api_keys": [entry]}))
    assert says in str(caught.value) and "k-secret" not in str(caught.value)


def test_a_tenant_whose_name_is_no_folder_is_refused_at_the_start(tmp_path):
    settings = {"server.api_keys": ["a/b:k"], "knowledge.folder": str(tmp_path)}
    with pytest.raises(ConfigError, match="a/b"):
        check_settings(load_config(None, settings))


WITHOUT = """
import sys
for name in ("dulwich", "ahocorasick", "rapidfuzz", "sqlglot"):
    sys.modules[name] = None
from stepwell.base.config import load_config
from stepwell.base.errors import ConfigError
from stepwell.server.app import App
from stepwell.server.lifecycle import check_settings
from tests.api.fake_engine import FakeEngine
config = load_config()
App(FakeEngine(), config=config, keys=check_settings(config))
try:
    check_settings(load_config(None, {"knowledge.folder": "kb"}))
except ConfigError as error:
    print(error)
"""


def test_without_the_extra_the_server_is_made_unless_knowledge_is_asked_for():
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60, cwd=root
    )
    assert "stepwell[knowledge]" in done.stdout and "dulwich" in done.stdout, done.stderr


def test_everyone_of_a_server_without_keys_has_all_roles(serve, tmp_path):
    running = serve(knowledge={"folder": str(tmp_path), "capture": "quarantine"})
    assert ANYONE.roles == frozenset(Role) and ANYONE.person == "local"
    made = running.post("/v1/knowledge/entries", GOTCHA)
    assert made.status_code == 201
    assert (tmp_path / "local" / "records.sqlite").exists()
