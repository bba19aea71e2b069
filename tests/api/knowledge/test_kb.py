"""`stepwell kb`: the same verbs on a running server and on a folder."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import StepwellError
from stepwell.cli.kb import app


class Kb:
    """One place to work at; each call is by a person."""

    def __init__(self, options):
        self.options = options

    def __call__(self, person, *words):
        result = CliRunner().invoke(app, [*self.options(person), *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, person, *words):
        return json.loads(self(person, *words, "--json"))


@pytest.fixture(params=["server", "folder"])
def kb(request, tmp_path):
    if request.param == "folder":
        folder = str(tmp_path)
        return Kb(lambda person: ["--folder", folder, "--tenant", "shop", "--user", person])
    root = request.getfixturevalue("shop").running.root
    return Kb(lambda person: ["--url", root, "--key", f"k-{person}"])


def test_the_loop(kb, tmp_path):
    made = kb.json(
        "app", "add", "gotcha", "about=orders.status", "rule=stale; use state",
        "--depends-on", "orders",
    )["id"]  # fmt: skip
    assert "1 candidates wait" in kb("ann", "candidates")
    mine = kb.json("ann", "me")
    assert (mine["tenant"], mine["user"], mine["release"]) == ("shop", "ann", "")
    assert "user: ann" in kb("ann", "me") and "POST candidates/{id}/confirm" in kb("ann", "me")
    assert kb.json("ann", "confirm", made) == {"id": made, "status": "confirmed"}
    assert made in kb("ann", "search", "status of orders")
    assert kb.json("eve", "case", "status of orders?", "--expect", made)["expect"] == [made]
    plan = kb.json("eve", "plan")
    assert plan["added"] == [made] and made in kb("eve", "plan")
    assert kb.json("eve", "release", "--digest", plan["digest"])["name"] == "r0001"
    assert kb.json("ann", "ls", "--status", "released")["data"][0]["id"] == made
    assert "use state" in kb("ann", "show", made) and "use state" in kb("ann", "diff", "r0001")
    with pytest.raises(StepwellError) as caught:
        kb("eve", "release", "--retire", made)
    assert caught.value.code == "release_blocked"
    digest = kb.json("eve", "plan", "--retire", made)["digest"]
    waive = ["--waive", f"{kb.json('eve', 'cases')['data'][0]['id']}=it is gone"]
    kb("eve", "release", "--retire", made, "--digest", digest, *waive)
    assert kb.json("ann", "releases")["current"] == "r0002"
    assert "in force" in kb("eve", "releases")
    kb("eve", "rollback", "r0001")
    hashes = tmp_path / "hashes.json"
    hashes.write_text('{"orders": "1"}')
    assert kb.json("eve", "schema", str(hashes))["new"] == ["orders"]
    ddl = tmp_path / "schema.sql"
    ddl.write_text("CREATE TABLE orders (state TEXT)")
    assert kb.json("eve", "schema", str(ddl), "--preview")["changed"] == ["orders"]
    assert kb.json("eve", "schema", str(ddl))["new"] == ["orders.state"]
    assert "orders.state" in kb("eve", "schema")
    kb("ann", "revalidate", made)
    out = tmp_path / "out.jsonl"
    kb("eve", "export", "--out", str(out))
    assert json.loads(out.read_text())["entry"]["id"] == made
    kb("eve", "erase", made, "--history", "erase", "--yes")
    assert kb.json("ann", "ls")["data"] == []


def test_edits_rejections_and_feedback(kb):
    made = kb.json("app", "add", "schema", "table=orders", "columns=a: x", "columns=b: y")["id"]
    edited = kb.json("ann", "confirm", made, "--edit", "table=orders", "--edit", "columns=a: z")
    assert edited["id"] != made
    assert kb.json("ann", "reject", edited["id"], "--reason", "no")["status"] == "retired"
    with pytest.raises(StepwellError) as caught:
        kb("app", "feedback", "chatcmpl-0", "failed", "--error", "x")
    assert caught.value.code == "response_not_found"


def test_notes_of_a_session(kb, request):
    if "folder" in request.node.callspec.id:
        with pytest.raises(StepwellError, match="running server"):
            kb("ann", "notes", "s/1")
        return
    made = kb.json("ann", "note", "s/1", "3 rows")["id"]
    assert kb.json("ann", "notes", "s/1")["data"] == [{"id": made, "text": "3 rows"}]
    assert "3 rows" in kb("ann", "notes", "s/1") and "3 rows" not in kb("bob", "notes", "s/1")
    assert kb.json("ann", "note", "s/1", "--remove", made)["removed"] == [made]
    assert kb.json("ann", "note", "s/1", "--clear")["removed"] == []


def test_what_others_wrote_cannot_steer_the_terminal(kb):
    kb("app", "add", "document", "title=[/red] t", "text=\x1b[31mred\x1b]0;title\x07")
    shown = kb("ann", "candidates") + kb("ann", "ls")
    assert "\x1b" not in shown and "\x07" not in shown and "[/red]" in shown


def test_a_base_that_a_server_has_open_is_refused(shop, tmp_path):
    shop.app.propose()
    folder = shop.running.app.knowledge.settings.folder
    with pytest.raises(StepwellError, match="open elsewhere"):
        Kb(lambda _: ["--folder", folder, "--tenant", "shop"])("x", "ls")


@pytest.mark.parametrize(
    "words",
    [
        ["add", "gotcha", "about"],
        ["release", "--waive", "x"],
        ["note", "s"],
        ["note", "s", "--remove", ""],
    ],
)
def test_what_is_no_field_is_refused(kb, words):
    with pytest.raises(StepwellError) as caught:
        kb("app", *words)
    assert caught.value.code == "invalid_config"
