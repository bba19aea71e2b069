"""The review page in headless Chromium, on a real server; after each step the server is asked."""

from __future__ import annotations

from stepwell.server.knowledge.site import Site
from tests.api.knowledge.browser import HOSTILE, Page, card, nothing_ran, released
from tests.api.knowledge.conftest import GOTCHA, HTTP, METRIC

TEMPLATE = {"kind": "template", "payload": {"question": "How many orders?", "sql": "SELECT 1"}}


def status(shop, name):
    return shop.ann.get(f"entries/{name}")["entry"]["status"]


def test_hostile_text_is_text_wherever_it_is_shown(shop, page):
    first = {"kind": "gotcha", "payload": {"about": "orders.note", "rule": HOSTILE}}
    second = {"kind": "gotcha", "payload": {"about": "orders.note", "rule": f"{HOSTILE} not"}}
    old = shop.app.propose(first)
    name = shop.app.propose(second | {"triggers": [HOSTILE]})
    page.open("k-ann")
    assert HOSTILE in page.text(card(old)) and page.text(card(name)).count(HOSTILE) >= 3
    page.press(card(name), "The whole entry, as it is stored")
    page.wait(lambda: HOSTILE in page.text(f"{card(name)} pre"))
    page.press(card(old), "Edit")
    field = page.find(f"{card(old)} [data-field=rule]")
    assert field.get_property("value") == HOSTILE
    nothing_ran(page)
    page.press(card(old), "Confirm")
    page.said(old)
    page.open("k-eve", "plan")
    assert HOSTILE in page.text("#plan .diff")
    page.press("#plan .list", old)
    page.wait(lambda: HOSTILE in page.text("#plan dl"))
    nothing_ran(page)
    page.press("#plan .list", "Release")
    page.said("r0001")
    page.open("k-eve", "releases")
    page.press('[data-release="r0001"]', "What it changed")
    page.wait(lambda: HOSTILE in page.text("#releases .diff"))
    nothing_ran(page)


def test_characters_that_are_not_seen_are_shown(shop, page):
    rule = "use \u202eetats\u200b"
    name = shop.app.propose({"kind": "gotcha", "payload": {"about": "orders.x", "rule": rule}})
    page.open("k-ann")
    shown = page.text(card(name))
    assert "use U+202Eetats" in shown.replace("\n", "") and "U+200B" in shown
    assert "hidden_characters" in page.text(f"{card(name)} .findings")
    page.press(card(name), "Confirm")
    page.refused(card(name), "hidden_characters")
    assert status(shop, name) == "candidate"


def test_confirm_edit_and_reject(shop, page):
    gotcha, metric, template = (shop.app.propose(one) for one in (GOTCHA, METRIC, TEMPLATE))
    shop.app.propose(GOTCHA)
    page.open("k-ann")
    assert "seen 2 times" in page.text(card(gotcha)) and "from a program" in page.text(card(gotcha))
    page.press(card(gotcha), "Confirm")
    page.said(gotcha)
    page.wait(lambda: page.text("#waiting") == "(2)")
    page.wait(lambda: page.script("return document.activeElement.tagName") == "H3")
    assert status(shop, gotcha) == "confirmed"
    page.press(card(metric), "Edit")
    page.fill(f"{card(metric)} [data-field=expression]", "sum(total) / 100")
    page.press(card(metric), "Confirm as edited")
    page.said("Confirmed as edited")
    (edited,) = shop.ann.get("entries?kind=metric&status=confirmed")["data"]
    assert edited["payload"]["expression"] == "sum(total) / 100" and edited["parents"] == [metric]
    assert edited["by"] == "ann" and status(shop, metric) == "retired"
    page.press(card(template), "Reject")
    page.fill(f"{card(template)} form:not(:has(textarea)) input", "counts nothing")
    page.press(f"{card(template)} form:not(:has(textarea))", "Reject")
    page.said(f"Rejected: {template}")
    page.wait(lambda: "Nothing waits" in page.text("#candidates .list"))
    evidence = shop.ann.get(f"entries/{template}")["evidence"]
    assert evidence[-1] == {"what": "rejected", "by": "ann"} and status(shop, template) == "retired"


def test_what_is_typed_in_one_card_outlives_a_decision_on_another(shop, page):
    gotcha, metric = shop.app.propose(), shop.app.propose(METRIC)
    page.open("k-ann")
    page.press(card(metric), "Edit")
    page.fill(f"{card(metric)} [data-field=expression]", "sum(net)")
    page.press(card(gotcha), "Confirm")
    page.said(gotcha)
    page.wait(lambda: page.text("#waiting") == "(1)")
    field = page.find(f"{card(metric)} [data-field=expression]")
    assert field.get_property("value") == "sum(net)"


def test_a_contradiction_is_shown_beside_what_it_contradicts_and_replaces_it_if_told(shop, page):
    released(shop, GOTCHA)
    (old,) = shop.ann.get("entries?kind=gotcha")["data"]
    fresh = {"kind": "gotcha", "payload": {"about": "orders.status", "rule": "fine again"}}
    name = shop.app.propose(fresh)
    page.open("k-ann")
    sides = page.find(f"{card(name)} .sides tbody tr").find_elements("css selector", "td")
    assert [side.text for side in sides] == [
        "− caution orders.status: stale; use state",
        "+ caution orders.status: fine again",
    ]
    page.find(f'{card(name)} input[value="{old["id"]}"]').send_keys(" ")
    page.press(card(name), "Confirm")
    page.said(name)
    assert shop.ann.get(f"entries/{name}")["entry"]["supersedes"] == [old["id"]]
    page.open("k-eve", "plan")
    assert "Coming (1)" in page.text("#plan") and "Going (1)" in page.text("#plan")


def test_release_by_another_key_and_rollback(shop, page):
    first = released(shop, GOTCHA)
    metric = shop.app.propose(METRIC)
    alone = shop.eve.propose(TEMPLATE)
    shop.ann.post(f"candidates/{metric}/confirm")
    page.open("k-eve", "plan")
    assert alone not in page.text("#plan") and metric in page.text("#plan .diff")
    page.press("#plan .list", "Release")
    page.said("r0002")
    page.wait(lambda: "There is nothing to release." in page.text("#plan"))
    page.wait(lambda: "r0002 is in force" in page.text("#who"))
    assert shop.ann.get("releases")["current"] == "r0002" and status(shop, metric) == "released"
    page.open("k-eve", "releases")
    assert "in force" in page.text('[data-release="r0002"] h3')
    page.press(f'[data-release="{first}"]', f"Roll back to {first} …")
    page.wait(lambda: f'-id: "{metric}"' in page.text(f'[data-release="{first}"] .diff'))
    page.press(f'[data-release="{first}"]', f"Roll back to {first}")
    page.said(f"{first} is in force")
    page.wait(lambda: "in force" in page.text(f'[data-release="{first}"] h3'))
    assert shop.ann.get("releases")["current"] == first


def test_only_the_plan_that_was_looked_at_is_released(shop, page):
    shop.ann.post(f"candidates/{shop.app.propose()}/confirm")
    page.open("k-eve", "plan")
    late = shop.app.propose(METRIC)
    shop.ann.post(f"candidates/{late}/confirm")
    page.press("#plan .list", "Release")
    page.refused("#plan", "This is the plan of now.")
    assert shop.ann.get("releases")["releases"] == [] and late in page.text("#plan .diff")
    page.press("#plan .list", "Release")
    page.said("r0001")
    assert status(shop, late) == "released"


def test_what_stays_behind_says_why_and_what_is_retired_goes(shop, page):
    released(shop, GOTCHA)
    (old,) = shop.ann.get("entries")["data"]
    alone = shop.rival.propose(METRIC)
    shop.rival.post(f"candidates/{alone}/confirm")
    page.open("k-rival", "plan")
    assert "confirmed only by who releases" in page.text("#plan .why")
    page.open("k-eve", "plan")
    page.fill("#retire", old["id"])
    page.press("#plan .list", "Plan anew")
    page.wait(lambda: "Going (1)" in page.text("#plan"))
    page.press("#plan .list", "Release")
    page.said("r0002")
    assert shop.ann.get("entries")["data"] == []


def test_a_blocked_release_says_which_case_and_takes_a_signed_waiver(shop, page):
    released(shop, GOTCHA)
    (old,) = shop.ann.get("entries")["data"]
    case = {"id": "stale", "question": "status of orders", "expect": [old["id"]]}
    shop.eve.post("cases", case, status=201)
    page.open("k-eve", "plan")
    page.fill("#retire", old["id"])
    page.press("#plan .list", "Plan anew")
    page.wait(lambda: "Going (1)" in page.text("#plan"))
    page.press("#plan .list", "Release")
    assert "sign a waiver" in page.refused("#plan", "stale")
    assert shop.ann.get("releases")["current"] == "r0001"
    page.fill("#waive", "stale nobody asks that any more")
    page.press("#plan .list", "Release")
    page.said("r0002")


def test_a_key_without_the_role_is_told_so_and_changes_nothing(shop, page):
    name = shop.app.propose()
    page.open("k-app")
    assert page.text("#who") == "app of shop · may propose · no release yet"
    assert "Edit" not in page.text(card(name)) and "Reject" not in page.text(card(name))
    button = page.find(f"{card(name)} .steps button")
    assert "roles=confirm" in button.get_attribute("title")
    assert button.get_attribute("aria-disabled") == "true"
    page.press(card(name), "Confirm")
    assert "roles=confirm" in page.refused(card(name), "'confirm'")
    assert status(shop, name) == "candidate"
    shop.ann.post(f"candidates/{name}/confirm")
    page.open("k-bob", "plan")
    page.press("#plan .list", "Release")
    assert "roles=release" in page.refused("#plan", "'release'")
    assert shop.ann.get("releases")["releases"] == []
    page.open("k-read")
    assert "rex of shop · may only search" in page.text("#who")
    assert "this key has no role".casefold() in page.text("#trouble").casefold()


def test_what_the_next_key_may_do_is_asked_anew(shop, page):
    name = shop.app.propose()
    page.open("k-app")
    page.script("sessionStorage.setItem('stepwell.knowledge.key', 'k-wrong')")
    page.press(".tools", "Reload")
    page.wait(lambda: page.shown("#ask-key"))
    assert page.text("#who") == ""
    page.fill("#key", "k-ann")
    page.press("#ask-key", "Use it")
    page.wait(lambda: "ann of shop" in page.text("#who") and page.loaded("candidates"))
    page.press(card(name), "Confirm")
    page.said(name)
    assert status(shop, name) == "confirmed"


def test_the_key_is_asked_for_and_stays_in_the_tab(shop, page):
    shop.app.propose()
    page.open()
    page.fill("#key", "k-wrong")
    page.press("#ask-key", "Use it")
    page.wait(lambda: "not known" in page.text("#trouble"))
    assert page.script("return sessionStorage.length") == 0
    page.fill("#key", "k-ann")
    page.press("#ask-key", "Use it")
    page.wait(lambda: page.loaded("candidates"))
    assert page.script("return localStorage.length") == 0
    assert page.script("return document.cookie + location.href").count("k-ann") == 0
    page.press(".tools", "Forget the key")
    page.wait(lambda: page.shown("#ask-key"))
    assert page.script("return sessionStorage.length") == 0
    assert "gotcha" not in page.text("main")


def test_a_server_without_keys_asks_for_none(driver, serve, tmp_path):
    running = serve(knowledge={"folder": str(tmp_path), "capture": "quarantine"})
    page = Page(driver, running.root)
    page.open()
    assert page.shown("#candidates") and "Nothing waits" in page.text("#candidates")
    assert not page.shown("#forget")


def test_it_fits_the_screen(shop, page):
    shop.app.propose({"kind": "gotcha", "payload": {"about": "a" * 300, "rule": "b" * 300}})
    page.open("k-ann")
    for width in (360, 1280):
        size = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": width < 500}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert page.script("return document.documentElement.scrollWidth") <= width
    page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_files_have_their_types_and_a_strict_policy(one_shop):
    root = one_shop.running.root
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    paths = Site().paths
    assert {"/knowledge", "/knowledge/main.js", "/knowledge/page.css"} <= paths
    for path in paths:
        reply = HTTP.get(root + path)
        wanted = kinds.get(path.rpartition(".")[2], "text/html")
        assert reply.status_code == 200 and reply.headers["content-type"].startswith(wanted)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "innerHTML" not in reply.text
    headers = {"authorization": "Bearer k-ann"}
    for path in ("/knowledge/nothing.js", "/knowledge/%2e%2e/routes.py", "/knowledge/index.html"):
        assert HTTP.get(root + path, headers=headers).status_code == 404
    assert HTTP.get(f"{root}/knowledge/nothing.js").status_code == 401
